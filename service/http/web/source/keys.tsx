// Keys that work everywhere: none is taken while somebody types.

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { goTo, PAGES } from "./state";

const isOpen = signal(false);

const KEYS: [string, string][] = [
  ["/", "Write words to search with"],
  ["1 … 7", "Search, Library, Map, Basket, Jobs, Releases, Audit"],
  ["j, k", "Next, previous result or file"],
  ["Space", "Play, pause"],
  ["b", "Put it into the basket"],
  ["m", "More like this"],
  ["o", "Find its other half: sound or picture"],
  ["p", "Play it with your clip"],
  ["d", "Download the segment"],
  ["?", "This list"],
];

/** The card that the focus is in, or the first. */
function current(): HTMLElement | null {
  return document.activeElement?.closest<HTMLElement>("[data-card]") ?? null;
}

function walk(step: number): void {
  const cards = [...document.querySelectorAll<HTMLElement>(".room:not([hidden]) [data-card]")];
  const here = cards.indexOf(current() as HTMLElement);
  const next = cards[here < 0 ? 0 : Math.min(Math.max(here + step, 0), cards.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

export function takeKeys(): void {
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (target.closest("input:not([type=radio]):not([type=checkbox]):not([type=range]), textarea, select, dialog")) return;
    const page = PAGES[Number(event.key) - 1];
    if (page) goTo(page);
    else if (event.key === "/") {
      goTo("search");
      setTimeout(() => document.getElementById("text")?.focus());
    } else if (event.key === "?") isOpen.value = true;
    else if (event.key === "j" || event.key === "k") walk(event.key === "j" ? 1 : -1);
    else if (event.key === " " && !target.closest("button, a, summary, audio, video, input")) {
      const player = current()?.querySelector<HTMLMediaElement>("audio, video");
      if (!player) return;
      if (player.paused) void player.play().catch(() => {});
      else player.pause();
    } else {
      const button = /^[a-z]$/.test(event.key) && current()?.querySelector<HTMLElement>(`[data-key="${event.key}"]`);
      if (!button) return;
      button.click();
    }
    event.preventDefault();
  });
}

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (isOpen.value && !dialog.current?.open) dialog.current?.showModal();
  }, [isOpen.value]);
  return (
    <dialog ref={dialog} onClose={() => (isOpen.value = false)} aria-labelledby="help-title">
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt><kbd>{key}</kbd></dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog"><button type="submit">Close</button></form>
    </dialog>
  );
}
