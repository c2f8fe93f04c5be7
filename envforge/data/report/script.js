"use strict";
(() => {
  const list = document.getElementById("findings");
  const form = document.querySelector(".filters");
  const text = document.getElementById("filter-text");
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const fold = document.getElementById("fold");
  const items = list ? [...list.children] : [];
  const toggles = [...document.querySelectorAll("button.toggle")];

  const is_pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));

  const chosen = (name) => {
    const buttons = toggles.filter((each) => each.name === name);
    return buttons.length ? new Set(buttons.filter(is_pressed).map((each) => each.value)) : null;
  };

  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = chosen("verdict");
    const questions = chosen("question");
    let count = 0;
    for (const item of items) {
      const content = item.textContent.toLowerCase();
      const fits =
        (!verdicts || verdicts.has(item.dataset.verdict)) &&
        (!questions || questions.has(item.dataset.question)) &&
        words.every((word) => content.includes(word));
      item.hidden = !fits;
      count += fits ? 1 : 0;
    }
    shown.textContent = `${count} of ${items.length} shown`;
    nothing.hidden = count > 0;
    name_fold();
  };

  const visible_details = () => items.filter((item) => !item.hidden).map((item) => item.querySelector("details"));

  const name_fold = () => {
    fold.textContent = visible_details().some((each) => each.open) ? "Fold all" : "Unfold all";
  };

  if (form && list) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => {
      for (const each of toggles) press(each, true);
      setTimeout(filter);
    });
    for (const each of toggles) {
      each.addEventListener("click", () => {
        press(each, !is_pressed(each));
        filter();
      });
    }
    list.addEventListener("toggle", name_fold, true);
    fold.addEventListener("click", () => {
      const open = !visible_details().some((each) => each.open);
      for (const each of visible_details()) each.open = open;
    });
    document.addEventListener("keydown", (event) => {
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        text.focus();
        text.select();
      } else if (event.key === "Escape" && document.activeElement === text) {
        text.value = "";
        filter();
      }
    });
    // while something is wrong, hide what passed or was skipped; "Show all" brings it back
    if (items.some((item) => ["fail", "unknown", "warn"].includes(item.dataset.verdict))) {
      for (const each of toggles) if (["pass", "skip"].includes(each.value)) press(each, false);
    }
    filter();
  }

  for (const button of document.querySelectorAll("button.copy")) {
    const command = button.parentElement.querySelector("pre");
    button.hidden = false;
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(command);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      let done = false;
      try {
        await navigator.clipboard.writeText(command.textContent);
        done = true;
      } catch {
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // paper can't be filtered or unfolded, so print every finding, and all of it
  let closed = [];
  let filtered = [];
  addEventListener("beforeprint", () => {
    filtered = items.filter((item) => item.hidden);
    for (const item of filtered) item.hidden = false;
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
    for (const item of filtered) item.hidden = true;
  });
})();
