"use strict";
(() => {
  const table = document.getElementById("layers");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const details = [...document.querySelectorAll("details.layer")];

  const valueOf = (row, column, numeric) => {
    const value = row.cells[column].dataset.value;
    return value === undefined ? null : numeric ? Number(value) : value;
  };

  function sortBy(key, direction) {
    const column = heads.findIndex((head) => head.dataset.key === key);
    if (column < 0) return;
    const head = heads[column];
    const numeric = head.dataset.type === "number";
    const sign = (direction || head.dataset.first) === "descending" ? -1 : 1;
    const keyed = [...body.rows].map((row) => [valueOf(row, column, numeric), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // nothing comes last either way
      return sign * (numeric ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b));
    });
    body.append(...keyed.map(([, row]) => row));
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
  }

  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending" };
      const direction = opposite[head.getAttribute("aria-sort")] || head.dataset.first;
      sortBy(head.dataset.key, direction);
      history.replaceState(null, "", `#sort=${head.dataset.key}:${direction}`);
    });
  }

  const filter = document.getElementById("filter");
  function applyFilter() {
    const wanted = filter.value.trim().toLowerCase();
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !row.dataset.text.includes(wanted);
      count += !row.hidden;
    }
    for (const layer of details) layer.hidden = !layer.dataset.text.includes(wanted);
    document.getElementById("shown").textContent = wanted ? `${count} of ${body.rows.length} layers` : "";
  }
  filter.addEventListener("input", applyFilter);

  // `#sort=bytes`, `#sort=bytes:ascending`, `#filter=conv`, `#layer-3`: links to what is seen.
  function follow() {
    const [name, value] = decodeURIComponent(location.hash.slice(1)).split("=");
    if (name === "sort" && value) sortBy(...value.split(":"));
    if (name === "filter") {
      filter.value = value || "";
      applyFilter();
    }
    const target = name.startsWith("layer-") ? document.getElementById(name) : null;
    if (target) {
      target.open = true;
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
