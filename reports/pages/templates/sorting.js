"use strict";
/* Tables sort by a column: upwards, downwards, as they were. Each group is sorted on its own, and a
   sum stays below what it sums. */
(() => {
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  /* What a cell is compared by; null where it has nothing to compare. */
  function keyOf(cell, isNumeric) {
    const data = cell.querySelector("data[value]");
    if (isNumeric) {
      const value = data ? Number(data.value.replace("inf", "Infinity")) : NaN;
      return Number.isNaN(value) ? null : value;
    }
    const text = cell.textContent.trim();
    return text === "" || text === "–" ? null : text;
  }

  function ordered(rows, column, isNumeric, sign) {
    const keyed = rows.map((row) => [keyOf(row.cells[column], isNumeric), row]);
    const compare = isNumeric ? (a, b) => a - b : collator.compare;
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    return keyed.map(([, row]) => row);
  }

  /* The rows in stretches that sort: between headings of groups and sums, which stay. */
  function stretches(rows) {
    const found = [[]];
    for (const row of rows) {
      if (row.matches(".group, .total")) found.push(row, []);
      else found[found.length - 1].push(row);
    }
    return found;
  }

  function makeSortable(table) {
    const [body] = table.tBodies, heads = [...table.tHead.rows[0].cells];
    const parts = stretches([...body.rows]);
    if (!parts.some((part) => Array.isArray(part) && part.length > 1)) return;
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const isNumeric = head.classList.contains("number");
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null };
        const before = head.getAttribute("aria-sort");
        const order = before === null ? "ascending" : next[before];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        if (order) head.setAttribute("aria-sort", order);
        const sign = order === "descending" ? -1 : 1;
        body.append(...parts.flatMap((part) =>
          Array.isArray(part) && order ? ordered(part, column, isNumeric, sign) : part));
      });
    });
  }

  document.querySelectorAll(".scroll > table").forEach(makeSortable);
})();
