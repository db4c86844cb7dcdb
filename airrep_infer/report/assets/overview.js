// The overview: the verdict, stated facts, the matrix of groups, the distribution of scores, rows that come up often.

const MOST_GROUPS = 60;

function card(title, note, ...content) {
  return make("section", "card", make("h2", "", title), note ? make("p", "note", note) : null, ...content);
}

// Builds the overview; returns `update(state, chosen)` for what follows the filters.
function buildOverview(box, act) {
  const parts = [];
  if (data.verdict) parts.push(verdictCard());
  if (data.facts.length) parts.push(factList());
  let mark = () => {};
  if (columns.length) {
    const matrix = groupMatrix(act);
    parts.push(matrix.section);
    mark = matrix.mark;
  }
  const distribution = make("div", "grow");
  const often = make("div", "often");
  parts.push(
    make(
      "div",
      "pair",
      card("Scores", "Of the rows shown: each query's highest (proponents) and lowest (opponents).", distribution),
      card("Rows shown most often", "A row that many queries share is worth reading first.", often),
    ),
  );
  box.replaceChildren(...parts);
  return (state, chosen) => {
    mark(state.queryGroup, state.column);
    distribution.replaceChildren(
      histogram(
        [
          { name: "Proponents", values: scores("proponents", chosen) },
          { name: "Opponents", values: scores("opponents", chosen) },
        ],
      ),
    );
    often.replaceChildren(...oftenShown(chosen, state, act));
  };
}

// What fine-tuning without (or with) the rows in question really did to the answers.
function verdictCard() {
  const table = make("table", "arms");
  const head = make("tr", "");
  for (const title of ["Fine-tuned on", "Rows", "Loss of the queries", "Loss of the controls"]) {
    head.append(make("th", "", title));
  }
  table.append(head);
  for (const arm of data.verdict.arms) {
    const line = make("tr", "");
    const controls = arm.control_loss === null ? "\u2013" : arm.control_loss.toFixed(3);
    line.append(
      foreign("th", "", arm.name),
      make("td", "", String(arm.rows)),
      make("td", "", arm.query_loss.toFixed(3)),
      make("td", "", controls),
    );
    table.append(line);
  }
  const sentence = foreign("p", "verdict", data.verdict.sentence);
  return card("Verified on the language model", "Mean losses in nats: a higher loss makes an answer less likely.", sentence, table);
}

function factList() {
  const list = make("dl", "facts");
  for (const [name, value] of data.facts) {
    list.append(make("div", "", foreign("dt", "", name), foreign("dd", "", value)));
  }
  return list;
}

function groupMatrix(act) {
  const { means, sizes } = groupMeans();
  const strongest = columns.map((_, column) =>
    Math.max(0, ...means.map((line) => Math.abs(line[column])).filter((value) => !Number.isNaN(value))),
  );
  const rowsKept = largest(sizes, MOST_GROUPS);
  const columnsKept = largest(strongest, MOST_GROUPS);
  const unit = measured ? "mean influence" : "share of the proponents";
  const heat = heatMap({
    rowNames: rowsKept.map((row) => queryGroups[row]),
    columnNames: columnsKept.map((column) => columns[column]),
    values: rowsKept.map((row) => columnsKept.map((column) => means[row][column])),
    format: measured ? (value, scale) => score(value, scale).replace(/^\+/, "") : percent,
    describe: (row, column) => {
      const [group, from] = [rowsKept[row], columnsKept[column]];
      const number = `${groupFormat(means[group][from])} over ${count(sizes[group], "query", "queries")}`;
      return `${queryGroups[group]} \u2190 ${columns[from]}: ${unit} ${number}`;
    },
    pick: (row, column) => act.filterGroups(row < 0 ? -1 : rowsKept[row], column < 0 ? -1 : columnsKept[column]),
  });
  const cut = rowsKept.length < queryGroups.length || columnsKept.length < columns.length;
  const note = measured
    ? "Mean influence of each group of training rows (columns) on the queries of each group (rows)."
    : "Share of the proponents that come from each group of training rows (columns), by group of queries (rows).";
  const kept =
    ` Shown: ${rowsKept.length} of ${queryGroups.length} rows, ` +
    `${columnsKept.length} of ${columns.length} columns.`;
  const section = card("Which data moved which queries", cut ? note + kept : note, heat.box);
  return {
    section,
    mark: (row, column) => {
      const [r, c] = [rowsKept.indexOf(row), columnsKept.indexOf(column)];
      heat.mark(r, c);
    },
  };
}

// The positions of the `limit` largest values, in their own order.
function largest(values, limit) {
  const positions = values.map((_, position) => position);
  if (values.length <= limit) return positions;
  positions.sort((a, b) => values[b] - values[a]);
  return positions.slice(0, limit).sort((a, b) => a - b);
}

function oftenShown(chosen, state, act) {
  const inside = new Set(chosen);
  const within = (list) => list.filter((query) => inside.has(query)).length;
  const rows = shownBy.map((shown, row) => {
    const [high, low] = [within(shown.proponents), within(shown.opponents)];
    return { row, high, low, total: high + low };
  });
  const top = rows.filter(({ total }) => total > 0).sort((a, b) => b.total - a.total || a.row - b.row).slice(0, 8);
  const most = Math.max(1, ...top.map(({ total }) => total));
  return top.map(({ row, high, low }) => {
    const counts = [high && `proponent of ${high}`, low && `opponent of ${low}`].filter(Boolean);
    const bar = make("span", "split");
    for (const [number, name] of [[high, "positive"], [low, "negative"]]) {
      if (!number) continue;
      const part = make("i", name);
      part.style.width = `${(100 * number) / most}%`;
      bar.append(part);
    }
    bar.setAttribute("aria-hidden", "true");
    const line = button("often-line", "", () => act.filterRow(row));
    line.append(
      foreign("span", "often-id", train.id[row]),
      foreign("span", "often-text", train.response[row]),
      bar,
      make("span", "often-count", counts.join(", ")),
    );
    line.setAttribute("aria-pressed", row === state.row);
    return line;
  });
}
