"use strict";
/* The way through the page: which section is in view, and what can be moved sideways. */
(() => {
  /* Marks a frame's edges behind which its scrolling child has more; only then is it a tab stop. */
  function hint(frame, inner, isTabStop) {
    const update = () => {
      const most = inner.scrollWidth - inner.clientWidth;
      frame.classList.toggle("more-left", inner.scrollLeft > 2);
      frame.classList.toggle("more-right", inner.scrollLeft < most - 2);
      frame.classList.toggle("moves", most > 2);
      if (!isTabStop) return;
      if (most > 2) inner.tabIndex = 0;
      else inner.removeAttribute("tabindex");
    };
    inner.addEventListener("scroll", update, { passive: true });
    const observer = new ResizeObserver(update);
    observer.observe(inner);
    if (inner.firstElementChild) observer.observe(inner.firstElementChild);
    update();
  }

  document.querySelectorAll(".frame").forEach((frame) => hint(frame, frame.firstElementChild, true));
  const nav = document.querySelector("nav"), links = nav.querySelector(".links");
  hint(nav, links, false);

  const parts = [...links.children].map((link) => [link, document.getElementById(link.hash.slice(1))]);
  let current = null;

  /* The section in view is the last that begins in the upper part of the window. */
  function follow() {
    const border = Math.max(nav.offsetHeight + 40, window.innerHeight * 0.3);
    const atEnd = window.scrollY > 0
      && window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 2;
    const begun = parts.filter(([, part]) => part.getBoundingClientRect().top <= border);
    const [link] = (atEnd ? parts : begun).at(-1) ?? [null];
    if (link === current) return;
    if (current) current.removeAttribute("aria-current");
    current = link;
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const box = link.getBoundingClientRect(), own = links.getBoundingClientRect();
    if (box.left < own.left + 40) links.scrollLeft += box.left - own.left - 40;
    else if (box.right > own.right - 40) links.scrollLeft += box.right - own.right + 40;
  }

  let waiting = 0;
  const soon = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(follow);
  };
  window.addEventListener("scroll", soon, { passive: true });
  window.addEventListener("resize", soon);
  document.addEventListener("toggle", soon, true);
  follow();
})();
