// Charts of plain elements: they take the theme's colours, and their labels are text.

// The extent of some values with 0 in it; never empty.
function extent(values) {
  let low = 0;
  let high = 0;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low === high ? [0, 1] : [low, high];
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)}%`;
}

// A bar from zero to the value on a scale that all bars of a chart share.
function signedBar(value, [low, high]) {
  const width = high - low;
  const bar = make("i", value < 0 ? "fill negative" : "fill positive");
  bar.style.left = `${(100 * (Math.min(value, 0) - low)) / width}%`;
  bar.style.width = `${(100 * Math.abs(value)) / width}%`;
  const zero = make("i", "zero");
  zero.style.left = `${(-100 * low) / width}%`;
  const box = make("span", "signed-bar", bar, zero);
  box.setAttribute("aria-hidden", "true");
  return box;
}

// Names with signed bars, highest first: the `limit` strongest, and a button for all.
function barChart(entries, { format, limit = 10, pick, current }) {
  const scale = extent(entries.map((entry) => entry.value));
  const strongest = [...entries].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const box = make("div", "bars");
  const draw = (number) => {
    const shown = strongest.slice(0, number).sort((a, b) => b.value - a.value);
    const lines = shown.map((entry) => {
      const line = button("bar-line", "", () => pick(entry.code));
      line.append(
        foreign("span", "bar-name", entry.name),
        signedBar(entry.value, scale),
        make("span", "number", format(entry.value)),
      );
      line.title = entry.title;
      line.setAttribute("aria-pressed", entry.code === current);
      return line;
    });
    box.replaceChildren(...lines);
    if (number < entries.length) {
      box.append(button("quiet", `Show all ${entries.length}`, () => draw(entries.length)));
    }
  };
  draw(entries.length <= limit + 2 ? entries.length : limit);
  return box;
}

// Rows of bins on one axis, one for each series; named series are coloured by sign. `marks`: scores to point
// at, on the bins of the last series.
function histogram(series, { bins = 48, marks = [] } = {}) {
  let low = Infinity;
  let high = -Infinity;
  for (const { values } of series) {
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return make("p", "note", "No scores.");
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const width = (high - low) / bins;
  if (low < 0 && high > 0) {
    // An edge of the bins at 0, so that no bin holds both signs.
    low = -Math.ceil(-low / width) * width;
    bins = Math.ceil(high / width - low / width);
    high = low + bins * width;
  }
  const counted = series.map(({ values }) => {
    const heights = new Array(bins).fill(0);
    for (const value of values) heights[Math.min(bins - 1, Math.floor((value - low) / width))]++;
    return heights;
  });
  const highest = Math.max(...counted.flat());
  const box = make("div", "histogram");
  const inside = (value) => `${(100 * (value - low)) / (high - low)}%`;
  counted.forEach((heights, at) => {
    const row = make("div", "bins");
    heights.forEach((height, bin) => {
      const from = low + bin * width;
      const column = make("i", !series[at].name ? "neutral" : from + width / 2 < 0 ? "negative" : "positive");
      column.style.height = height ? `max(2px, ${(100 * height) / highest}%)` : "0";
      column.title = `${score(from)} to ${score(from + width)}: ${height}`;
      row.append(column);
    });
    if (series[at].name) {
      const total = series[at].values.length.toLocaleString("en");
      box.append(make("div", "bins-name", make("b", "", series[at].name), make("span", "", total)));
    }
    if (at === counted.length - 1) {
      for (const value of marks) {
        const mark = make("b", value < 0 ? "negative" : "positive");
        mark.style.left = inside(value);
        row.append(mark);
      }
    }
    box.append(row);
  });
  const axis = make("div", "axis");
  const label = (value, className) => {
    const mark = make("span", className, score(value));
    mark.style.left = inside(value);
    axis.append(mark);
  };
  label(low, "first");
  label(high, "last");
  const zero = (0 - low) / (high - low);
  if (zero > 0.12 && zero < 0.88) label(0, "zero-label");
  box.append(axis);
  return box;
}
