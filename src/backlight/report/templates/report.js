(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  var table = document.getElementById("rows");
  if (!table || !table.tBodies[0].rows.length) return;
  var body = table.tBodies[0];

  function show(tr, focus, silent) {
    body.querySelectorAll("tr.shown").forEach(function (other) {
      other.classList.remove("shown");
      other.querySelector(".pick").setAttribute("aria-expanded", "false");
    });
    document.querySelectorAll(".detail.shown").forEach(function (d) { d.classList.remove("shown"); });
    tr.classList.add("shown");
    tr.querySelector(".pick").setAttribute("aria-expanded", "true");
    document.getElementById("detail-" + tr.dataset.row).classList.add("shown");
    if (focus) tr.querySelector(".pick").focus();
    if (silent) return;
    try { history.replaceState(null, "", "#row-" + tr.dataset.row); } catch (e) { /* a sandboxed viewer */ }
  }

  body.addEventListener("click", function (event) {
    var tr = event.target.closest("tr");
    if (!tr) return;
    show(tr, false);
    var detail = document.getElementById("detail-" + tr.dataset.row);
    if (window.matchMedia("(max-width: 1080px)").matches) detail.scrollIntoView({ block: "start" });
  });

  body.addEventListener("keydown", function (event) {
    var tr = event.target.closest("tr");
    var rows = Array.from(body.rows);
    var at = rows.indexOf(tr);
    var to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    show(rows[to], true);
  });

  table.tHead.querySelectorAll("button[data-sort]").forEach(function (button) {
    button.addEventListener("click", function () {
      var th = button.closest("th");
      var column = th.cellIndex;
      var numeric = button.dataset.sort === "number";
      var descending = th.getAttribute("aria-sort") === "ascending";
      table.tHead.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      th.setAttribute("aria-sort", descending ? "descending" : "ascending");
      var sorted = Array.from(body.rows).sort(function (a, b) {
        var x = a.cells[column].dataset.value, y = b.cells[column].dataset.value;
        var order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
        return descending ? -order : order;
      });
      sorted.forEach(function (tr) { body.appendChild(tr); });
    });
  });

  document.querySelectorAll(".copy").forEach(function (button) {
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", function () {
      var text = button.parentNode.firstChild.textContent.trim();
      navigator.clipboard.writeText(text).then(function () { button.textContent = "copied"; });
    });
  });

  var asked = /^#row-(\d+)$/.exec(location.hash);
  show((asked && body.querySelector('tr[data-row="' + asked[1] + '"]')) || body.rows[0], false, true);
})();
