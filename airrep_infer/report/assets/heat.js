// A table of coloured cells.

// What the cells are coloured by: the values, or how far they are from the mean of their column or row.
const CENTRES = {
  column: { label: "By column", note: "Colours: above or below the mean of the column." },
  row: { label: "By row", note: "Colours: above or below the mean of the row." },
  none: { label: "As measured", note: "Colours: the values themselves." },
};

function centred(values, centre) {
  if (centre === "none") return values;
  const mean = (line) => {
    const present = line.filter((value) => !Number.isNaN(value));
    return present.reduce((sum, value) => sum + value, 0) / present.length;
  };
  const byRow = values.map(mean);
  const byColumn = (values[0] ?? []).map((_, column) => mean(values.map((line) => line[column])));
  return values.map((line, row) =>
    line.map((value, column) => value - (centre === "row" ? byRow[row] : byColumn[column])),
  );
}

// Rows of `values[row][column]` (NaN: nothing there), named {short, full}. `describe(row, column)`: a cell in words, either is -1 for
// a name. `pick(row, column)` takes -1 for a click on the name of a column or row. Returns the element and
// `mark(row, column)`.
function heatMap({ rowNames, columnNames, values, format, describe, pick }) {
  const present = values.flat().filter((value) => !Number.isNaN(value));
  const largest = Math.max(1e-12, ...present.map(Math.abs));
  const signed = present.some((value) => value < 0);
  const readout = make("p", "readout");
  const numbers = columnNames.length <= 18;
  const table = make("table", rowNames.length > 30 ? "heat dense" : "heat");
  if (rowNames.some(({ short }) => short.length > 24)) table.classList.add("wide-names");
  table.setAttribute("role", "grid");
  const cells = [];
  const named = (name, row, column) => {
    const label = button("", "", () => pick(row, column));
    label.append(foreign("span", "", name.short));
    label.title = name.full;
    label.dataset.row = row;
    label.dataset.column = column;
    const heading = make("th", "", label);
    heading.scope = row < 0 ? "col" : "row";
    return heading;
  };

  const headings = make("tr", "", make("td", "corner"));
  headings.append(...columnNames.map((name, column) => named(name, -1, column)));
  table.append(make("thead", "", headings));
  const body = make("tbody");
  rowNames.forEach((name, row) => {
    const line = make("tr", "", named(name, row, -1));
    cells.push(values[row].map((value, column) => heatCell(value, row, column, largest, numbers ? format : null)));
    line.append(...cells[row]);
    body.append(line);
  });
  table.append(body);

  const idle = "Click a cell, or a name, to filter the queries.";
  readout.textContent = idle;
  const tell = (event) => {
    const target = event.target.closest("[data-row]");
    readout.textContent = target ? describe(...placeOf(target)) : idle;
  };
  table.addEventListener("mouseover", tell);
  table.addEventListener("focusin", tell);
  table.addEventListener("mouseleave", () => (readout.textContent = idle));
  body.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) pick(...placeOf(cell));
  });
  body.addEventListener("keydown", (event) => steer(event, cells, pick));

  const legend = make("div", signed ? "legend signed" : "legend");
  const least = signed ? format(-largest) : "0";
  legend.append(make("span", "", least), make("i", "ramp"), make("span", "", format(largest)));
  const box = make("div", "heat-box", make("div", "heat-scroll", table), make("div", "heat-foot", readout, legend));
  const mark = (row, column) => {
    cells.forEach((line, r) =>
      line.forEach((cell, c) => {
        const hit = (row >= 0 || column >= 0) && (row < 0 || r === row) && (column < 0 || c === column);
        cell.setAttribute("aria-selected", hit);
      }),
    );
  };
  return { box, mark };
}

function placeOf(element) {
  return [Number(element.dataset.row), Number(element.dataset.column)];
}

function heatCell(value, row, column, largest, format) {
  const cell = make("td", "cell");
  cell.tabIndex = row || column ? -1 : 0;
  cell.dataset.row = row;
  cell.dataset.column = column;
  if (Number.isNaN(value)) {
    cell.classList.add("empty");
    return cell;
  }
  const strength = Math.abs(value) / largest;
  cell.classList.add(value < 0 ? "negative" : "positive");
  // The colour of the number: where each theme's ink would no longer stand out.
  if (strength > 0.75) cell.classList.add("deepest");
  else if (strength > 0.62) cell.classList.add("deep");
  cell.style.setProperty("--strength", `${Math.round(100 * strength)}%`);
  if (format) cell.append(make("span", "", format(value, largest)));
  return cell;
}

// Arrow keys lead from cell to cell; Enter and the space bar pick one.
function steer(event, cells, pick) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const cell = event.target.closest(".cell");
  if (!cell) return;
  const [row, column] = placeOf(cell);
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    pick(row, column);
  } else if (moves[event.key]) {
    event.preventDefault();
    const [down, right] = moves[event.key];
    const next = cells[row + down]?.[column + right];
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
