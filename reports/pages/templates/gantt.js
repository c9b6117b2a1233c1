"use strict";
/* Timelines on a canvas: rows of spans, zoomed by dragging or by keys, with a tip for each span. */
const Gantt = (() => {
  const GUTTER = 46, AXIS = 30, TOP = 4, HEAD = 24;
  /* Where rows lie that the view leaves out. */
  const HIDDEN = -1e6;
  const KEYS = "Keys: ← → move, + − zoom, Home shows all, ↑ ↓ choose a lane, "
    + "Shift with ← → the blocks in it, Escape lets go.";
  const CAUSES = [
    "", "activations", "gradients", "its activations to be taken", "its gradients to be taken",
    "the other ranks of the reduction", "nothing on record",
  ];
  const LETTERS = { forward: "F", backward: "B", backward_input: "I", backward_weight: "W" };
  /* Kinds that no stage does: the whole rank does, or the first and last together. */
  const RANKWIDE = ["exchange", "reduce_tied", "gradient_norm", "optimizer"];
  const TYPES = {
    row: Uint16Array, style: Uint8Array, kind: Uint8Array, stage: Uint16Array,
    microbatch: Uint16Array, start: Uint32Array, length: Uint32Array, wait: Uint32Array,
    cause: Uint8Array, cause_microbatch: Uint16Array, peer: Uint16Array,
    slice: Uint16Array, cause_slice: Uint16Array,
  };

  function unpack(text, type) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new type(bytes.buffer);
  }

  function shown(ns) {
    for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
      if (Math.abs(ns) >= size) return `${Number((ns / size).toPrecision(5))} ${unit}`;
    }
    return `${Math.round(ns)} ns`;
  }

  function ticks(low, high, most) {
    const raw = (high - low) / Math.max(1, most);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= raw);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high; t += step) found.push(t);
    return found;
  }

  class Timeline {
    constructor(figure, data, palette) {
      this.data = data;
      this.palette = palette;
      this.spans = {};
      for (const [name, type] of Object.entries(TYPES)) {
        this.spans[name] = unpack(data.spans[name], type);
      }
      this.bins = data.overview && unpack(data.overview.shares, Uint8Array);
      this.paired = data.rows.length > 1 && data.rows[0].group === data.rows[1].group;
      this.views = data.windows.map((w) => ({ ...w }));
      if (this.bins) {
        const whole = { name: "Whole iteration", start: 0, end: data.total_ns, coarse: true };
        this.views.unshift(whole);
      }
      this.holder = figure.querySelector(".drawing");
      this.canvas = document.createElement("canvas");
      this.canvas.tabIndex = 0;
      this.said = figure.querySelector(".said");
      const title = figure.querySelector("figcaption").textContent;
      const named = { role: "application", "aria-roledescription": "timeline", "aria-label": title };
      const about = { ...named, "aria-describedby": this.said.id };
      for (const [name, value] of Object.entries(about)) this.canvas.setAttribute(name, value);
      ["role", "aria-label"].forEach((name) => this.holder.removeAttribute(name));
      this.holder.append(this.canvas);
      this.lane = 0;
      this.chosen = null;
      this.addButtons(figure.querySelector(".views"));
      this.listen();
      this.select(this.views.length > 1 && this.bins ? 1 : 0);
    }

    addButtons(holder) {
      const made = (text, act) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.addEventListener("click", act);
        holder.append(button);
        return button;
      };
      this.buttons = this.views.map((view, index) => {
        const text = index ? view.name : `Fit ${view.name.toLowerCase()}`;
        return made(text, () => this.select(index));
      });
      made("+", () => this.closer(2 / 3)).setAttribute("aria-label", "+ Zoom in");
      made("−", () => this.closer(3 / 2)).setAttribute("aria-label", "− Zoom out");
    }

    select(index) {
      this.view = this.views[index];
      this.low = this.view.start;
      this.high = this.view.end;
      this.chosen = null;
      this.said.textContent = "";
      this.lane = (this.view.rows ?? [0])[0];
      this.mark(index);
      this.group();
      this.draw();
    }

    mark(chosen) {
      this.buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(i === chosen)));
    }

    /* The spans of the view by row, by start. */
    group() {
      this.byRow = this.data.rows.map(() => []);
      if (this.view.coarse) return;
      const { first, count } = this.view;
      for (let i = first; i < first + count; i++) this.byRow[this.spans.row[i]].push(i);
    }

    zoom(low, high) {
      const least = Math.max(10, this.data.total_ns / 1e6);
      const own = this.data.overview || this.view.rows;
      const whole = own ? this.view : { start: 0, end: this.data.total_ns };
      const width = Math.min(Math.max(high - low, least), whole.end - whole.start);
      this.low = Math.min(Math.max(low, whole.start), whole.end - width);
      this.high = this.low + width;
      this.mark(-1);
      this.draw();
    }

    /* Back to the whole of what can be seen without another of the views. */
    fit() {
      const own = this.data.overview || this.view.rows;
      this.select(own ? this.views.indexOf(this.view) : 0);
    }

    /* Another width, by a factor, about the block chosen or else the middle. */
    closer(factor) {
      const [begin, end] = this.chosen === null ? [this.low, this.high] : this.times(this.chosen);
      const middle = Math.min(Math.max((begin + end) / 2, this.low), this.high);
      this.zoom(middle - (middle - this.low) * factor, middle + (this.high - middle) * factor);
    }

    times(i) {
      const unit = this.data.unit_ns, begin = this.spans.start[i] * unit;
      return [begin, begin + this.spans.length[i] * unit];
    }

    /* Puts a ring around a block, says in words what it is, and moves it into view. */
    choose(i) {
      this.chosen = i;
      this.lane = this.spans.row[i];
      this.said.textContent = this.describe({ span: i }).replaceAll("\n", "; ");
      const [begin, end] = this.times(i), width = this.high - this.low;
      if (begin >= this.high || end <= this.low) {
        const low = (begin + end - width) / 2;
        this.zoom(low, low + width);
      } else this.draw();
    }

    letGo() {
      this.chosen = null;
      this.said.textContent = "";
      this.draw();
    }

    /* The next block of the lane, or the one before; at first the first in view. */
    step(by) {
      const own = this.byRow[this.lane];
      const at = this.chosen === null ? -1 : own.indexOf(this.chosen);
      const first = own.findIndex((i) => this.times(i)[1] > this.low);
      const next = at < 0 ? first : at + by;
      if (own[next] !== undefined) this.choose(own[next]);
      else if (this.view.coarse) this.said.textContent = "The other parts show single blocks.";
    }

    /* The lane above or below; its block nearest to the one chosen, or to the middle. */
    climb(by) {
      const [from, to] = this.view.rows ?? [0, this.data.rows.length];
      const [begin, end] = this.chosen === null ? [this.low, this.high] : this.times(this.chosen);
      const lane = this.chosen === null ? this.lane : this.lane + by;
      if (lane < from || lane >= to || !this.byRow[lane].length) return this.step(0);
      const away = (i) => Math.abs(this.times(i)[0] + this.times(i)[1] - begin - end);
      this.choose(this.byRow[lane].reduce((best, i) => (away(i) < away(best) ? i : best)));
    }

    layout() {
      const width = Math.max(200, this.holder.clientWidth);
      const [from, to] = this.view.rows ?? [0, this.data.rows.length];
      const rows = to - from;
      const pitch = Math.max(8, Math.min(this.paired ? 22 : 30, 620 / rows));
      const apart = this.paired ? Math.max(3, pitch * 0.3) : 0;
      let y = TOP;
      const tops = this.data.rows.map((row, i) => {
        const before = this.data.rows[i - 1];
        if (i < from || i >= to) return HIDDEN;
        if (row.title) y += i > from ? HEAD + 6 : HEAD;
        else if (before && before.group !== row.group) y += apart;
        y += pitch;
        return y - pitch;
      });
      this.left = this.paired ? GUTTER + 14 : GUTTER;
      this.width = width;
      this.pitch = pitch;
      this.tops = tops;
      this.body = tops[to - 1] + pitch;
      this.height = Math.ceil(this.body + AXIS + 6);
      this.scale = (width - this.left - 10) / (this.high - this.low);
    }

    x(ns) {
      return this.left + (ns - this.low) * this.scale;
    }

    draw() {
      this.layout();
      const ratio = Math.max(2, window.devicePixelRatio || 1);
      this.canvas.width = Math.round(this.width * ratio);
      this.canvas.height = Math.round(this.height * ratio);
      this.canvas.style.height = `${this.height}px`;
      const c = (this.c = this.canvas.getContext("2d"));
      c.setTransform(ratio, 0, 0, ratio, 0, 0);
      c.clearRect(0, 0, this.width, this.height);
      this.colors = this.data.styles.map((name) => this.palette(`--${name}`));
      this.onColors = this.data.styles.map((name) => this.palette(`--on-${name}`));
      this.hatching = this.hatch();
      this.drawAxis();
      this.tops.forEach((top, row) => { if (top !== HIDDEN) this.drawRow(row, top); });
      this.canvas.dataset.drawn = String(this.marks);
    }

    drawAxis() {
      const c = this.c;
      this.marks = 0;
      c.font = `11.5px ${this.palette("--sans")}`;
      c.textBaseline = "top";
      c.textAlign = "center";
      c.strokeStyle = this.palette("--grid");
      c.fillStyle = this.palette("--muted");
      const span = Math.max(Math.abs(this.low), Math.abs(this.high));
      const [unit, size] = span >= 1e9 ? ["s", 1e9] : span >= 1e6 ? ["ms", 1e6] : ["µs", 1e3];
      const found = ticks(this.low, this.high, (this.width - this.left) / 90);
      const digits = found.length > 1
        ? Math.max(0, Math.min(9, -Math.floor(Math.log10((found[1] - found[0]) / size)))) : 3;
      for (const t of found) {
        const x = this.x(t);
        c.beginPath();
        c.moveTo(x, 0);
        c.lineTo(x, this.body + 4);
        c.stroke();
        c.textAlign = x < this.left + 12 ? "left" : "center";
        if (x < this.width - 24) c.fillText(`${(t / size).toFixed(digits)} ${unit}`, x, this.body + 8);
      }
      c.textAlign = "left";
      c.fillText("rank", 0, this.body + 8);
    }

    hatch() {
      const tile = document.createElement("canvas");
      tile.width = tile.height = 8;
      const t = tile.getContext("2d");
      t.fillStyle = this.palette("--bubble-fill");
      t.fillRect(0, 0, 8, 8);
      t.strokeStyle = this.palette("--bubble");
      t.lineWidth = 1;
      t.beginPath();
      for (const o of [-8, 0, 8]) {
        t.moveTo(o - 1, 9);
        t.lineTo(o + 9, -1);
      }
      t.stroke();
      const pattern = this.c.createPattern(tile, "repeat");
      pattern.setTransform(new DOMMatrix().scale(0.75));
      return pattern;
    }

    drawRow(row, top) {
      const c = this.c, inner = this.pitch > 14 ? 3 : 1;
      const height = this.pitch - inner, thin = Math.max(1.5, height * 0.16);
      const every = Math.ceil(13 / this.pitch);
      const title = this.data.rows[row].title;
      if (title) {
        c.font = `600 12px ${this.palette("--sans")}`;
        c.fillStyle = this.palette("--ink");
        c.textAlign = "left";
        c.textBaseline = "middle";
        c.fillText(title, 0, top - HEAD / 2, this.width);
      }
      c.font = `11.5px ${this.palette("--sans")}`;
      if (row % every === 0) {
        c.fillStyle = this.palette("--soft");
        c.textAlign = "right";
        c.textBaseline = "middle";
        c.fillText(this.data.rows[row].label, this.left - 8, top + height / 2);
      }
      const from = Math.max(this.left, this.x(0));
      const to = Math.min(this.width - 10, this.x(this.data.rows[row].end ?? this.data.total_ns));
      c.save();
      c.beginPath();
      c.rect(this.left, top, this.width - this.left - 10, height + 1);
      c.clip();
      c.fillStyle = this.hatching;
      c.fillRect(from, top, Math.max(0, to - from), this.view.coarse ? height : height - thin - 1);
      if (this.view.coarse) this.drawCoarse(row, top, height);
      else this.drawSpans(row, top, height, thin);
      c.restore();
    }

    /* Of each stretch of time, its styles' shares as stacked heights; the rest stays hatched. */
    drawCoarse(row, top, height) {
      const { bins, styles } = this.data.overview;
      const width = this.data.total_ns / bins, plane = this.data.rows.length * bins;
      for (let i = 0; i < bins; i++) {
        let bottom = top + height;
        styles.forEach((style, n) => {
          const tall = (this.bins[n * plane + row * bins + i] / 255) * height;
          if (!tall) return;
          bottom -= tall;
          this.c.fillStyle = this.colors[style];
          this.c.fillRect(this.x(i * width), bottom, width * this.scale + 0.4, tall);
          this.marks++;
        });
      }
    }

    drawSpans(row, top, height, thin) {
      const c = this.c, s = this.spans, unit = this.data.unit_ns;
      const transfer = this.data.styles.indexOf("transfer"), block = height - thin - 1;
      c.textAlign = "center";
      c.textBaseline = "middle";
      c.font = `${Math.min(11, block * 0.72)}px ${this.palette("--sans")}`;
      for (const i of this.byRow[row]) {
        const x0 = this.x(s.start[i] * unit), x1 = this.x((s.start[i] + s.length[i]) * unit);
        if (x1 < this.left || x0 > this.width) continue;
        const wide = x1 - x0;
        c.fillStyle = this.colors[s.style[i]];
        this.marks++;
        if (s.style[i] === transfer) {
          c.fillRect(x0, top + height - thin, Math.max(0.6, wide), thin);
          if (i === this.chosen) this.ring(x0, top + height - thin - 1, wide, thin + 1);
          continue;
        }
        c.fillRect(x0, top, Math.max(0.6, wide - (wide > 4 ? 1 : wide > 2 ? 0.5 : 0)), block);
        if (s.microbatch[i] !== this.data.nothing && block >= 11) {
          const room = (label) => wide > 7 * label.length + 4;
          const microbatch = this.numbered(s.row[i], s.microbatch[i], s.slice[i]);
          const whole = `${LETTERS[this.data.kinds[s.kind[i]]] ?? ""}${microbatch} of stage ${s.stage[i]}`;
          const text = this.data.several_stages && room(whole) ? whole : microbatch;
          if (room(text)) {
            c.fillStyle = this.onColors[s.style[i]];
            c.fillText(text, (Math.max(x0, this.left) + Math.min(x1, this.width - 10)) / 2, top + block / 2 + 0.5);
          }
        }
        if (i === this.chosen) this.ring(x0, top, wide, block);
      }
    }

    ring(x, y, width, height) {
      const c = this.c;
      c.lineWidth = 2;
      c.strokeStyle = this.palette("--ink");
      c.strokeRect(x + 1, y + 1, Math.max(2, width - 2), height - 2);
      c.lineWidth = 1;
    }

    /* The slices of a microbatch as [context, tokens]; null where it is whole. */
    slices(row, microbatch) {
      const cut = this.data.cuts[this.data.rows[row].cut];
      if (!cut || microbatch === this.data.nothing) return null;
      const pieces = cut.pieces[cut.variants[microbatch] ?? 0];
      return pieces.length > 1 ? pieces : null;
    }

    /* `3`, or of a sliced microbatch `3.1`; of the only one just `1`. */
    numbered(row, microbatch, slice) {
      if (!this.slices(row, microbatch)) return String(microbatch);
      return this.data.several_microbatches ? `${microbatch}.${slice}` : String(slice);
    }

    named(row, microbatch, slice) {
      if (microbatch === this.data.nothing) return "";
      const pieces = this.slices(row, microbatch);
      if (!pieces) return `microbatch ${microbatch}`;
      const [context, tokens] = pieces[slice];
      const after = context ? ` after ${context.toLocaleString("en")}` : ", the first";
      const size = `${tokens.toLocaleString("en")} tokens${after}`;
      return this.data.several_microbatches
        ? `microbatch ${microbatch}, slice ${slice} (${size})` : `slice ${slice} (${size})`;
    }

    /* The span under a point; a thin one only in the lower part of its row. */
    at(px, py) {
      const row = this.tops.findIndex((top) => py >= top && py < top + this.pitch);
      if (row < 0 || px < this.left || this.view.coarse) return null;
      const s = this.spans, unit = this.data.unit_ns, slack = 1.5 / this.scale;
      const time = this.low + (px - this.left) / this.scale;
      const lower = py - this.tops[row] > this.pitch * 0.76;
      const transfer = this.data.styles.indexOf("transfer");
      let found = null, gap = null;
      for (const i of this.byRow[row]) {
        const begin = s.start[i] * unit, end = begin + s.length[i] * unit;
        const thin = s.style[i] === transfer;
        if (time >= begin - slack && time <= end + slack) {
          if (found === null || thin === lower) found = i;
        } else if (!thin && s.wait[i] && time < begin && time >= begin - s.wait[i] * unit) gap = i;
      }
      return found !== null ? { span: found } : gap !== null ? { gap } : null;
    }

    describe(hit) {
      const s = this.spans, d = this.data, i = hit.span ?? hit.gap;
      const row = d.rows[s.row[i]], none = d.nothing;
      const what = d.kinds[s.kind[i]].replaceAll("_", " ");
      const own = this.named(s.row[i], s.microbatch[i], s.slice[i]);
      const mb = own && `, ${own}`;
      const place = row.place ? row.place : this.paired ? `rank ${row.group} (${row.label.endsWith("run") ? "measured" : "simulated"})` : `rank ${row.label}`;
      const transfer = d.styles[s.style[i]] === "transfer";
      const stage = RANKWIDE.includes(d.kinds[s.kind[i]]) ? "" : `, stage ${s.stage[i]}`;
      const lines = [`${what}${stage}${mb}`];
      if (hit.gap !== undefined) lines[0] = `${place} waits before: ${lines[0]}`;
      else {
        const from = transfer && s.peer[i] !== none ? `, from rank ${s.peer[i]}` : "";
        lines.push(`${place}${from}`, `start ${shown(s.start[i] * d.unit_ns)}, duration ${shown(s.length[i] * d.unit_ns)}`);
      }
      if (s.wait[i]) {
        const cause = this.named(s.row[i], s.cause_microbatch[i], s.cause_slice[i]);
        const cmb = cause && ` of ${cause}`;
        const peer = s.cause[i] < 5 && s.peer[i] !== none ? `, ${s.cause[i] < 3 ? "from" : "by"} rank ${s.peer[i]}` : "";
        lines.push(`waited ${shown(s.wait[i] * d.unit_ns)} for ${CAUSES[s.cause[i]]}${cmb}${peer}`);
      } else if (!transfer) lines.push("waited for nothing");
      return lines.join("\n");
    }

    listen() {
      const tip = document.getElementById("tip"), canvas = this.canvas;
      let dragging = null;
      const place = (event) => {
        const box = canvas.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      canvas.addEventListener("pointermove", (event) => {
        const [px, py] = place(event);
        if (dragging !== null) {
          tip.hidden = true;
          if (event.pointerType === "touch") {
            const by = (dragging.px - px) / this.scale;
            dragging = { px, from: dragging.from };
            this.zoom(this.low + by, this.high + by);
            return;
          }
          this.draw();
          this.c.fillStyle = this.palette("--accent");
          this.c.globalAlpha = 0.18;
          this.c.fillRect(Math.min(dragging.from, px), 0, Math.abs(px - dragging.from), this.body);
          this.c.globalAlpha = 1;
          return;
        }
        const hit = this.at(px, py);
        tip.hidden = hit === null;
        if (hit === null) return;
        tip.textContent = this.describe(hit);
        const right = document.documentElement.clientWidth - tip.offsetWidth - 8;
        tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, right))}px`;
        const below = event.clientY + 18 + tip.offsetHeight < window.innerHeight;
        tip.style.top = `${below ? event.clientY + 18 : event.clientY - 12 - tip.offsetHeight}px`;
      });
      canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        const [px] = place(event);
        dragging = { px, from: px };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointerup", (event) => {
        if (dragging === null) return;
        const [px, py] = place(event), ends = [dragging.from, px].sort((a, b) => a - b);
        dragging = null;
        const times = ends.map((px) => this.low + (Math.max(px, this.left) - this.left) / this.scale);
        const hit = this.at(px, py);
        if (ends[1] - ends[0] > 5) {
          if (event.pointerType !== "touch") this.zoom(times[0], times[1]);
        } else if (hit && hit.span !== undefined) this.choose(hit.span);
        else if (hit) this.said.textContent = this.describe(hit).replaceAll("\n", "; ");
        else this.letGo();
      });
      canvas.addEventListener("pointercancel", () => { dragging = null; this.draw(); });
      canvas.addEventListener("dblclick", () => this.select(this.views.indexOf(this.view)));
      canvas.addEventListener("focus", () => {
        if (canvas.matches(":focus-visible") && !this.said.textContent) this.said.textContent = KEYS;
      });
      canvas.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        const fifth = (this.high - this.low) / 5;
        const act = {
          ArrowLeft: () => this.zoom(this.low - fifth, this.high - fifth),
          ArrowRight: () => this.zoom(this.low + fifth, this.high + fifth),
          "Shift ArrowLeft": () => this.step(-1),
          "Shift ArrowRight": () => this.step(1),
          ArrowUp: () => this.climb(-1),
          ArrowDown: () => this.climb(1),
          "+": () => this.closer(2 / 3),
          "=": () => this.closer(2 / 3),
          "-": () => this.closer(3 / 2),
          Home: () => this.fit(),
          Escape: () => this.letGo(),
        }[event.shiftKey && event.key.length > 1 ? `Shift ${event.key}` : event.key];
        if (!act) return;
        event.preventDefault();
        act();
      });
    }
  }

  return Timeline;
})();
