// Choosing a file to search with: from disk, dropped, or recorded.

import { formatBytes } from "../format";
import { goTo } from "../state";
import { cancel } from "./ask";
import { setClip, status } from "./state";

// Only for files that the browser has no type for.
const SOUND_NAME = /\.(aac|aif|aiff|caf|flac|m4a|mka|mp3|oga|ogg|opus|w64|wav|wma)$/i;

export function chooseFile(file: File, numFiles = 1): void {
  cancel();
  const isSound = file.type.startsWith("audio/") || (!file.type && SOUND_NAME.test(file.name));
  const kind = file.type.startsWith("image/") ? "image" : isSound ? "audio" : "video";
  setClip({ kind, name: file.name, url: URL.createObjectURL(file), file }, formatBytes(file.size));
  status.value = numFiles > 1 ? `A search takes one file: the first of ${numFiles} is used.` : "";
}

/** The whole window takes a drop: a drop beside the box would otherwise leave the page. */
export function takeDrops(): void {
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"] as const) {
    window.addEventListener(kind, (event) => {
      event.preventDefault();
      const files = event.dataTransfer?.files;
      document.getElementById("drop")?.classList.toggle("is-over", kind === "dragenter" || kind === "dragover");
      if (kind !== "drop" || !files?.[0]) return;
      goTo("search");
      chooseFile(files[0], files.length);
    });
  }
}
