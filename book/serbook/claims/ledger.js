(function () {
  const box = document.getElementById("ledger-filters");
  const rows = [...document.querySelectorAll("#ledger tbody tr")];
  const fields = [...box.querySelectorAll("select, input")];
  function show() {
    const word = box.querySelector("input").value.toLowerCase();
    let n = 0;
    for (const row of rows) {
      const chosen = f => f.tagName === "INPUT" || !f.value || row.dataset[f.name] === f.value;
      const fits = fields.every(chosen) && row.textContent.toLowerCase().includes(word);
      row.hidden = !fits;
      n += fits;
    }
    document.getElementById("ledger-count").textContent = n + " of " + rows.length + " claims";
  }
  fields.forEach(f => f.addEventListener("input", show));
  box.hidden = false;
  show();
})();
