// Sorting and filtering of the boards. Without this script the page shows everything it has, in a fixed order.
// It moves and hides rows and cells that are there; it never writes markup.
"use strict";

for (const board of document.querySelectorAll("section.board")) {
  const table = board.querySelector("table.results");
  const form = board.querySelector("form.controls");
  if (!table || !form) continue;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const controls = {};
  for (const control of form.querySelectorAll("[data-control]")) controls[control.dataset.control] = control;
  const state = { column: table.dataset.first || "model", direction: null };

  const metric = () => controls.metric.value;
  const more = () => controls.metric.selectedOptions[0].dataset.more === "1";

  // What a row is sorted by: a number, or null where there is none (such rows stand last either way).
  function value(row) {
    if (state.column === "model") return Number(row.dataset.order);
    const cell = row.querySelector(`td[data-col="${state.column}"]`);
    const text = cell && cell.dataset[state.column === "latency" ? "latency" : metric()];
    return text === undefined || text === null ? null : Number(text);
  }

  function natural() {
    if (state.column === "model" || state.column === "latency") return 1;
    return more() ? -1 : 1;
  }

  function sort() {
    const sign = state.direction === null ? natural() : state.direction;
    const keyed = rows.map((row) => ({ row, value: value(row) }));
    keyed.sort((a, b) => {
      const ranked = Number(b.row.dataset.ranked) - Number(a.row.dataset.ranked);
      if (ranked) return ranked;
      if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;
      const order = a.value === null ? 0 : sign * (a.value - b.value);
      return order || Number(a.row.dataset.order) - Number(b.row.dataset.order);
    });
    for (const entry of keyed) body.append(entry.row);
    for (const head of heads) {
      if (head.dataset.sort === state.column) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    if (controls.sort) controls.sort.value = state.column;
  }

  function show() {
    const wanted = { task: "", condition: "", kind: "" };
    for (const name of Object.keys(wanted)) wanted[name] = controls[name] ? controls[name].value : "";
    for (const cell of table.querySelectorAll("[data-task]")) {
      const off = Object.entries(wanted).some(([name, choice]) => choice && cell.dataset[name] !== choice);
      cell.classList.toggle("off", off);
    }
    for (const part of table.querySelectorAll("[data-metric]")) part.hidden = part.dataset.metric !== metric();
    const role = controls.rows.value;
    for (const row of rows) row.classList.toggle("off", Boolean(role) && row.dataset.role !== role);
    const head = heads.find((entry) => entry.dataset.sort === state.column);
    if (!head || head.classList.contains("off")) {
      const open = heads.filter((entry) => entry.dataset.task && !entry.classList.contains("off"));
      state.column = open.length ? open[open.length - 1].dataset.sort : "model";
      state.direction = null;
    }
    sort();
  }

  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      if (state.column === head.dataset.sort) state.direction = -(state.direction === null ? natural() : state.direction);
      else [state.column, state.direction] = [head.dataset.sort, null];
      sort();
    });
  }
  form.addEventListener("change", (event) => {
    if (event.target === controls.sort) [state.column, state.direction] = [controls.sort.value, null];
    else if (event.target === controls.metric) state.direction = null;
    show();
  });
  form.hidden = false;
  show();
}
