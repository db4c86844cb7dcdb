"use strict";
// Elements, numbers, and a list that holds only the rows in view. Text from the data reaches the page
// through textContent alone.

function make(tag, className = "", ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content.filter((child) => child !== null));
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
  // `height()`: of a row, in pixels; `fill(position)` makes the element of a row; `pick(position)` is told of a
  // click or Enter; `move(position)` of an arrow key; `mark(row, position, current)` says what is selected.
  constructor(box, { height, fill, pick, move = pick, mark = markCurrent, toggle = null }) {
    Object.assign(this, { box, height, fill, pick, move, mark, toggle });
    this.length = 0;
    this.current = -1;
    this.rows = new Map();
    this.rowHeight = height();
    this.space = make("div", "space");
    this.space.setAttribute("role", "presentation");
    box.replaceChildren(this.space);
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-position]");
      if (row) this.pick(Number(row.dataset.position), event);
    });
    box.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => {
      if (this.height() === this.rowHeight) this.draw();
      else this.reset(this.length, this.current);
    }).observe(box);
  }

  // All rows anew; `current` is the selected position, or -1.
  reset(length, current) {
    this.length = length;
    this.current = current;
    this.rowHeight = this.height();
    for (const row of this.rows.values()) row.remove();
    this.rows.clear();
    this.space.style.height = `${length * this.rowHeight}px`;
    this.draw();
  }

  select(position, reveal) {
    this.current = position;
    this.markAll();
    if (reveal && position >= 0) {
      const top = position * this.rowHeight;
      const bottom = top + this.rowHeight - this.box.clientHeight;
      if (top < this.box.scrollTop) this.box.scrollTop = top;
      else if (bottom > this.box.scrollTop) this.box.scrollTop = bottom;
    }
    this.draw();
  }

  markAll() {
    for (const [position, row] of this.rows) this.mark(row, position, this.current);
  }

  draw() {
    const height = this.box.clientHeight;
    const spare = 4;
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.rowHeight) - spare);
    const end = height && Math.min(this.length, first + Math.ceil(height / this.rowHeight) + 2 * spare);
    for (const [position, row] of this.rows) {
      if (position < first || position >= end) {
        row.remove();
        this.rows.delete(position);
      }
    }
    for (let position = first; position < end; position++) {
      if (this.rows.has(position)) continue;
      const row = this.fill(position);
      row.dataset.position = position;
      row.id = `${this.box.id}-${position}`;
      row.style.top = `${position * this.rowHeight}px`;
      row.setAttribute("role", "option");
      row.setAttribute("aria-setsize", this.length);
      row.setAttribute("aria-posinset", position + 1);
      this.mark(row, position, this.current);
      this.rows.set(position, row);
      this.space.append(row);
    }
    const current = this.rows.get(this.current);
    if (current) this.box.setAttribute("aria-activedescendant", current.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  key(event) {
    if (event.target !== this.box || !this.length) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    const act = event.key === "Enter" ? this.pick : event.key === " " ? this.toggle : null;
    if (step === undefined && !(act && this.current >= 0)) return;
    event.preventDefault();
    if (act) act(this.current, event);
    else this.move(Math.min(this.length - 1, Math.max(0, this.current + step)));
  }
}

function markCurrent(row, position, current) {
  row.setAttribute("aria-selected", position === current);
}
