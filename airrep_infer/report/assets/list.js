"use strict";
// Elements, numbers, and a list that holds only the rows in view. Text from the data reaches the page
// through textContent alone.

function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content.filter((one) => one !== null));
  return element;
}

// Text that others wrote: it may run from right to left, and must not turn its surroundings around.
function foreign(tag, className, text) {
  const element = make(tag, className);
  element.dir = "auto";
  element.textContent = text;
  return element;
}

function button(className, label, act) {
  const element = make("button", className, label);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

const MINUS = "\u2212";

// A signed number with three digits or so; `scale`: the size that says how many belong behind the point.
function score(value, scale = value) {
  const size = Math.abs(scale);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.01 || size === 0 ? 2 : 4;
  const shown = Math.abs(value).toFixed(digits);
  return Number(shown) === 0 ? shown : (value > 0 ? "+" : MINUS) + shown;
}

function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

class VirtualList {
  // `fill(position)` makes the element of a row; `pick(position)` is told of a click or a key.
  constructor(box, rowHeight, fill, pick) {
    this.box = box;
    this.rowHeight = rowHeight;
    this.fill = fill;
    this.pick = pick;
    this.length = 0;
    this.current = -1;
    this.rows = new Map();
    this.space = make("div", "space");
    this.space.setAttribute("role", "presentation");
    box.replaceChildren(this.space);
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-position]");
      if (row) this.pick(Number(row.dataset.position));
    });
    box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(box);
  }

  // All rows anew; `current` is the selected position, or -1.
  reset(length, current) {
    this.length = length;
    this.current = current;
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
    this.space.style.height = `${length * this.rowHeight}px`;
    this.draw();
  }

  select(position, reveal) {
    this.current = position;
    for (const [at, row] of this.rows) this.mark(row, at);
    if (reveal && position >= 0) {
      const top = position * this.rowHeight;
      const bottom = top + this.rowHeight - this.box.clientHeight;
      if (top < this.box.scrollTop) this.box.scrollTop = top;
      else if (bottom > this.box.scrollTop) this.box.scrollTop = bottom;
    }
    this.draw();
  }

  draw() {
    const height = this.box.clientHeight;
    const spare = 4;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.rowHeight) - spare);
    const end = height && Math.min(this.length, first + Math.ceil(height / this.rowHeight) + 2 * spare);
    for (const [at, row] of this.rows) {
      if (at < first || at >= end) {
        row.remove();
        this.rows.delete(at);
      }
    }
    for (let at = first; at < end; at++) {
      if (this.rows.has(at)) continue;
      const row = this.fill(at);
      row.dataset.position = at;
      row.id = `row-${at}`;
      row.style.top = `${at * this.rowHeight}px`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-setsize", this.length);
      row.setAttribute("aria-posinset", at + 1);
      this.mark(row, at);
      this.rows.set(at, row);
      this.space.append(row);
    }
    if (this.rows.has(this.current)) this.box.setAttribute("aria-activedescendant", `row-${this.current}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  mark(row, at) {
    row.setAttribute("aria-selected", at === this.current);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !this.length) return;
    event.preventDefault();
    this.pick(Math.min(this.length - 1, Math.max(0, this.current + step)));
  }
}
