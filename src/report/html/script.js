"use strict";
// The page is whole without this. It adds the filter of all cases, and opens what is folded before it is printed.
(() => {
  const form = document.getElementById("filter");
  if (form) {
    const field = (id) => document.getElementById(id);
    const [find, verdict, profile, level] = ["find", "by-verdict", "by-profile", "by-level"].map(field);
    const rows = [...document.querySelectorAll("table.cases tr.row")];
    const words = rows.map((row) => row.textContent.toLowerCase());
    const apply = () => {
      const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const is = (row, name, select) => !select.value || row.dataset[name] === select.value;
      let shown = 0;
      rows.forEach((row, at) => {
        const meant =
          is(row, "verdict", verdict) && is(row, "profile", profile) && is(row, "level", level) &&
          wanted.every((word) => words[at].includes(word));
        row.hidden = !meant;
        shown += meant ? 1 : 0;
      });
      document.querySelectorAll("table.cases tbody").forEach((body) => {
        body.hidden = !body.querySelector("tr.row:not([hidden])");
      });
      field("found").textContent = `${shown} of ${rows.length} cases`;
    };
    form.hidden = false;
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.closest("details");
    if (folded) {
      folded.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", reveal);
  reveal();
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.print").forEach((folded) => {
      folded.open = true;
    });
  });
})();
