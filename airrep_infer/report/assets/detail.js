// One query: its text, the influence of the groups, its proponents and opponents.

const PER_PAGE = 25;

// Draws query number `query`; `place` says where it stands in the list.
function drawDetail(box, query, place, state, act) {
  const parts = [questionCard(query, place, act)];
  const groups = columns.map((name, code) => ({ name, code, value: groupValues[query][code] }));
  const influence = make(
    "section",
    "card influence",
    make("h2", "", "Influence of all training rows"),
    make("p", "figure", score(data.influence[query]), estimate(query)),
    make("p", "note", "Above 0: together they make this response more likely."),
    scorePlace(query),
  );
  if (groups.length) {
    const title = measured ? "Influence by group" : `Proponents by ${fieldName}`;
    const chart = barChart(groups, {
      format: groupFormat,
      pick: (code) => act.filterColumn(code),
      current: state.column,
    });
    parts.push(make("div", "pair", influence, card(title, "", chart)));
  } else parts.push(influence);

  const [high, low] = [hits("proponents", query), hits("opponents", query)];
  const scale = extent([...high, ...low].map((hit) => hit.score));
  const raised = high.some((hit) => hit.score > 0)
    ? "Predicted to make this response more likely."
    : "No row is predicted to raise this response: these lower it least.";
  const lowered = low.some((hit) => hit.score < 0)
    ? "Predicted to make this response less likely."
    : "No row is predicted to lower this response: these raise it least.";
  parts.push(
    make(
      "div",
      "pair hits",
      hitColumn("Proponents", raised, high, scale, state, act),
      hitColumn("Opponents", lowered, low, scale, state, act),
    ),
    make("p", "note foot", `Prompts and responses longer than ${count(data.chars, "character")} are cut.`),
  );
  box.replaceChildren(...parts);
  addMore(box);
}

function questionCard(query, place, act) {
  const step = (label, name, by) => {
    const turn = button("icon", label, () => act.step(by));
    turn.setAttribute("aria-label", name);
    turn.disabled = place.at < 0 || place.at + by < 0 || place.at + by >= place.of;
    return turn;
  };
  const [at, of] = [place.at + 1, place.of].map((number) => number.toLocaleString("en"));
  const where = make("span", "where", place.at < 0 ? "not in the list" : `${at} of ${of}`);
  const head = make(
    "div",
    "question-head",
    button("quiet back", "\u2039 All queries", () => act.back()),
    foreign("span", "id", queries.id[query]),
    data.queryGroups.length ? foreign("span", "tag", queryGroups[queryGroupOf(query)]) : null,
    make("span", "steps", where, step("\u2191", "Previous query", -1), step("\u2193", "Next query", 1)),
  );
  return make("section", "card question", head, rowText(queries, query));
}

// A row's prompt and response, or the whole of a plain text: some lines of each, without the blank ones.
function rowText(side, row) {
  const box = make("div", "text");
  const prompt = side.prompt[row];
  if (prompt !== null) box.append(foreign("p", "prompt", condensed(prompt)));
  box.append(foreign("p", prompt === null ? "response plain" : "response", condensed(side.response[row])));
  box.whole = prompt === null ? [side.response[row]] : [prompt, side.response[row]];
  return box;
}

function condensed(text) {
  return text.trim().replace(/\s*\n\s*/g, "\n");
}

// A button under every text inside `box` that does not fit; it shows all of it as it is.
function addMore(box) {
  // All sizes are read before the first button goes in: the page is laid out once.
  const cut = [...box.querySelectorAll(".text")].filter((text) =>
    [...text.children].some((part) => part.scrollHeight > part.clientHeight + 2),
  );
  for (const text of cut) {
    const more = button("quiet more", "Show more", () => {
      const open = text.classList.toggle("open");
      [...text.children].forEach((part, at) => {
        part.textContent = open ? text.whole[at] : condensed(text.whole[at]);
      });
      more.textContent = open ? "Show less" : "Show more";
      more.setAttribute("aria-expanded", open);
    });
    more.setAttribute("aria-expanded", false);
    text.after(more);
  }
}

// Attributions through an index estimate the influence and say how far they may be off.
function estimate(query) {
  const error = data.errors[query];
  return error === null ? null : make("span", "error", ` \u00b1 ${score(error).replace("+", "")}`);
}

function scorePlace(query) {
  const all = (chosen) => [...scores("proponents", chosen), ...scores("opponents", chosen)];
  const chart = histogram([{ name: "", values: all(everyQuery) }], { marks: all([query]) });
  const note = "Its proponents and opponents (marks) among those of all queries.";
  return make("div", "grow", chart, make("p", "note", note));
}

function hitColumn(title, note, all, scale, state, act) {
  const group = state.column < 0 ? -1 : rowGroupOfColumn[state.column];
  const kept = group < 0 ? all : all.filter((hit) => train.group[hit.row] === group);
  const head = make("div", "hits-head", make("h2", "", title), make("p", "note", note));
  if (title === "Proponents") {
    const jump = () => document.querySelector(".hit-column:last-child").scrollIntoView();
    head.append(button("quiet jump", "Opponents \u2193", jump));
  }
  if (group >= 0) {
    const only = make("p", "note only", `${kept.length} of ${all.length}, from `);
    const every = button("quiet", "Show all", () => act.filterColumn(-1));
    only.append(foreign("b", "", data.trainGroups[group]), " \u00b7 ", every);
    head.append(only);
  }
  const list = make("ol", "hit-list");
  const column = make("section", "hit-column", head, list);
  const add = (from) => {
    const added = kept.slice(from, from + PER_PAGE).map((hit) => hitItem(hit, scale, act));
    list.append(...added);
    const left = kept.length - from - added.length;
    if (left > 0) {
      const more = button("quiet", `Show ${Math.min(left, PER_PAGE)} more`, () => {
        more.remove();
        add(from + PER_PAGE);
      });
      column.append(more);
    }
    if (list.isConnected) added.forEach(addMore);
  };
  add(0);
  return column;
}

function hitItem(hit, scale, act) {
  const others = shownBy[hit.row].queries.size;
  const foot = make("div", "hit-foot", foreign("span", "id", train.id[hit.row]));
  if (data.trainGroups.length) foot.append(foreign("span", "tag", data.trainGroups[train.group[hit.row]]));
  if (others > 1) {
    const link = button("quiet", `in ${count(others, "query", "queries")}`, () => act.filterRow(hit.row));
    link.title = "List the queries that show this row";
    foot.append(link);
  }
  return make(
    "li",
    "hit",
    make("span", "rank", String(hit.rank)),
    make(
      "div",
      "hit-body",
      make("div", "hit-score", signedBar(hit.score, scale), make("span", "number", score(hit.score))),
      rowText(train, hit.row),
      foot,
    ),
  );
}
