/* Makes the pages quicker; every one of them works without it. Nothing is loaded from elsewhere. */
"use strict";

const later = (wait, action) => {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => action(...given), wait); };
};
const page = async (answer) => new DOMParser().parseFromString(await answer.text(), "text/html");

/* The catalogue: results as one types. */
const search = document.querySelector(".find input");
if (search) {
  let asked = 0;
  search.addEventListener("input", later(150, async () => {
    const mine = ++asked, url = "/datasets?" + new URLSearchParams({ search: search.value });
    const answer = await fetch(url);
    if (!answer.ok || mine !== asked) return;
    const found = await page(answer);
    for (const part of [".grid", ".hero [role=status]"])
      document.querySelector(part).innerHTML = found.querySelector(part).innerHTML;
    history.replaceState(null, "", search.value ? url : "/datasets");
  }));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing) { event.preventDefault(); search.focus(); }
  });
}

/* The request form: its parts follow what is chosen, and each field says what is wrong with it.
   Attributes are read by name: fields called "dataset" or "action" hide the properties of a form. */
const form = document.getElementById("ask");
if (form) {
  const touched = new Set();
  let all = form.querySelector("[data-summary]:not([hidden])") !== null, turn = 0;
  const send = (url, button) => {
    const fields = new URLSearchParams(new FormData(form));
    if (button) fields.append(button.name, button.value);
    return fetch(url, { method: "POST", body: fields });
  };
  const place = (control) => {
    const row = control.closest(".row");
    if (row) return row.id;
    if (control.name === "include" || control.name === "boundary" || control.name === "unseen") return control.name;
    return control.closest("#shares") ? "shares" : control.name;
  };
  const controls = (where) => {
    const found = document.getElementById(where);
    return !found ? [] : found.matches(".row") ? found.querySelectorAll("input, select") : [found];
  };
  const say = (faults, yaml) => {
    for (const fault of form.querySelectorAll("[data-fault]")) {
      const where = fault.dataset.fault, said = all || touched.has(where) ? faults[where] : undefined;
      fault.hidden = !said;
      if (fault.textContent !== (said || "")) fault.textContent = said || "";
      for (const control of controls(where))
        if (control.matches("input, select")) control.toggleAttribute("aria-invalid", !!said), said && control.setAttribute("aria-invalid", "true");
    }
    const count = Object.keys(faults).length;
    const rows = form.elements.rows.value, dataset = form.elements.dataset.value;
    const text = count ? `${count} thing${count === 1 ? "" : "s"} to mend` : `Ready: ${rows || "as many"} rows ${dataset === "-" ? "of your columns" : `like ${dataset}`}`;
    const status = form.querySelector("[data-said]");
    if (status.textContent !== text) status.textContent = text;
    form.querySelector("[data-file]").hidden = !yaml;
    form.querySelector("[data-yaml]").textContent = yaml;
    const summary = form.querySelector("[data-summary]");
    if (!count) summary.hidden = true;
  };
  const check = later(250, async () => {
    const mine = ++turn, answer = await send(form.getAttribute("data-check-url"));
    if (!answer.ok || mine !== turn) return;
    const { faults, yaml } = await answer.json();
    if (mine === turn) say(faults, yaml);
  });
  const refresh = async (button) => {
    const mine = ++turn, answer = await send(form.getAttribute("data-refresh-url"), button);
    if (!answer.ok) return;
    // Something was filled in meanwhile, and this answer does not know of it.
    if (mine !== turn) { if (button) await refresh(button); else refreshSoon(); return; }
    const fresh = (await page(answer)).getElementById("ask");
    if (!fresh) return;
    const named = (name) => [...form.elements].filter((one) => name && one.name === name);
    const from = document.activeElement, number = named(from.name).indexOf(from);
    const open = [...form.querySelectorAll("details")].map((one) => one.open);
    form.replaceChildren(...fresh.childNodes);
    form.querySelectorAll("details").forEach((one, index) => { one.open = one.open || !!open[index]; });
    let focus = named(from.name)[number];
    if (button) {
      const [action, group] = button.value.split(":"), rows = form.querySelectorAll(`.row[id^="${group}-"]`);
      focus = action === "add" ? rows[rows.length - 1].querySelector("select, input") : form.querySelector(`button[value="add:${group}"]`);
    }
    if (focus) focus.focus();
    // Who is in the midst of a word goes on behind the last letter.
    if (focus && typeof from.selectionStart === "number") focus.setSelectionRange(from.selectionStart, from.selectionEnd);
    check();
  };
  // A choice made by typing changes with every letter: wait for the last one.
  const refreshSoon = later(300, () => refresh());
  form.addEventListener("input", (event) => {
    turn++;  // An answer that is on its way does not know of this.
    if (!event.target.matches("[data-refresh]")) check();
  });
  form.addEventListener("change", (event) => {
    touched.add(place(event.target));
    if (event.target.matches("[data-refresh]")) refreshSoon(); else check();
  });
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-press]");
    if (button) { event.preventDefault(); refresh(button); }
  });
  check();
}

/* A request: follow it until it is answered. */
const live = document.getElementById("live");
if (live && live.dataset.events) {
  let last = "", done = false;
  const look = async () => {
    const answer = await fetch(live.dataset.live);
    if (!answer.ok) return;
    const text = await answer.text();
    const focused = live.contains(document.activeElement) ? document.activeElement.textContent : null;
    if (text !== last) live.innerHTML = last = text;
    if (focused !== null) [...live.querySelectorAll("button, a")].find((one) => one.textContent === focused)?.focus();
    const state = live.querySelector("[data-state]").textContent;
    document.title = document.title.replace(/: .*? · /, `: ${state} · `);
    const told = document.querySelector("[data-told]");
    if (told.textContent !== state) told.textContent = state;
  };
  const follow = () => {
    const source = new EventSource(live.dataset.events);
    for (const kind of ["state", "progress"]) source.addEventListener(kind, later(50, look));
    source.addEventListener("end", () => { done = true; source.close(); look(); });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED && !done) setTimeout(async () => { await look(); follow(); }, 3000);
    });
  };
  follow();
}
