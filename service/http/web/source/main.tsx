// The page at /: navigation, the key, questions of jobs, and one room at a time.
//
// File names come from strangers. Text enters the page as text or as an attribute, never as markup; the
// Content-Security-Policy of service/http/routes/pages.py is the second lock.

import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { foley, lineOf } from "./api";
import { Help, takeKeys } from "./keys";
import { Library, startLibrary } from "./library/library";
import { AuditPage, Basket, Jobs, LibraryMap, Releases } from "./rooms";
import { takeDrops } from "./search/choose";
import { clearProblem, hasClip, status } from "./search/state";
import { Search } from "./search/search";
import { basketSize } from "./work/collections";
import { bundle, keyNote, libraryLine, notice, numReturns, page, questions, showLibrary, useKey, wantsKey, type Page } from "./state";
import type { Job } from "./types";
import "./style.css";
import "./rooms.css";

const TITLES: Record<Page, string> = {
  search: "Search", library: "Library", map: "Map", basket: "Basket", jobs: "Jobs", releases: "Releases", audit: "Audit",
};

function Header() {
  const rooms = useRef<HTMLElement>(null);
  useEffect(() => rooms.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }), [page.value]);
  return (
    <header>
      <a class="brand" href="#/search">
        <h1>Foley</h1>
      </a>
      <nav ref={rooms} aria-label="Rooms">
        {(Object.keys(TITLES) as Page[]).map((name) => (
          <a key={name} href={`#/${name}`} aria-current={page.value === name ? "page" : undefined}>
            {TITLES[name]}
            {name === "basket" && basketSize.value > 0 && <span class="badge">{basketSize.value}</span>}
          </a>
        ))}
      </nav>
      <p id="library" role="status">{libraryLine}</p>
    </header>
  );
}

function KeyForm() {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    const key = field.current?.value.trim() ?? "";
    if (!(await useKey(key))) return;
    clearProblem();
    status.value = hasClip() ? "Key accepted. Search again." : "Key accepted.";
    document.getElementById(hasClip() ? "search" : "file")?.focus();
  };
  return (
    <form id="key-form" class="panel key" onSubmit={submit}>
      <h2>API key</h2>
      <p id="key-note" class="quiet">
        {keyNote.value ||
          "This service needs an API key. The key is kept until you close this tab. Players get it as a cookie of this " +
            "browser, which expires at most five minutes later."}
      </p>
      <div class="actions">
        <input id="key" ref={field} type="password" autocomplete="off" spellcheck={false} aria-label="API key" required />
        <button type="submit">Use</button>
      </div>
    </form>
  );
}

/** A sync that would remove most of a folder asks before it goes on. */
function Question({ job }: { job: Job }) {
  const [said, setSaid] = useState("");
  const [isAsked, setAsked] = useState(false);
  const accept = async () => {
    setAsked(true);
    if (!("paths" in job.request)) return;
    try {
      await foley.POST("/v1/jobs", { body: { ...job.request, kind: "sync", allow_gone: true } });
      setSaid("The sync runs again and removes them. The files themselves are not touched.");
    } catch (error) {
      setSaid(`Refused: ${lineOf(error)}`);
    }
  };
  return (
    <div class="problem">
      <strong>More files are gone than one sync removes without asking</strong>
      <p>{job.error?.detail}</p>
      <div class="actions">
        <button type="button" disabled={isAsked} onClick={accept}>Remove them from the index</button>
      </div>
      <p class="quiet" role="status">{said}</p>
    </div>
  );
}

function Room() {
  switch (page.value) {
    case "library": return <Library />;
    case "map": return <LibraryMap />;
    case "basket": return <Basket />;
    case "jobs": return <Jobs />;
    case "releases": return <Releases />;
    case "audit": return <AuditPage />;
    default: return null;
  }
}

const wasSearched = signal(false);
page.subscribe((name) => { if (name === "search") wasSearched.value = true; });

function App() {
  useEffect(() => {
    takeDrops();
    takeKeys();
  }, []);
  useEffect(() => {
    document.title = page.value === "search" ? "Foley" : `${TITLES[page.value]} · Foley`;
  }, [page.value]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>
        Skip to the content
      </a>
      <Header />
      <main id="main" tabIndex={-1}>
        <div id="questions" aria-label="Questions of jobs" role="region" aria-live="polite">
          {questions.value.map((job) => <Question key={job.job_id} job={job} />)}
        </div>
        {wantsKey.value && <KeyForm />}
        {/* The search stays as it is while another room is looked at; it is drawn when it is looked at first. */}
        {wasSearched.value && <div class="room" hidden={page.value !== "search"}><Search /></div>}
        {page.value !== "search" && <Room key={numReturns.value} />}
      </main>
      <p id="notice" role="status" class={notice.value ? "is-shown" : ""}>{notice}</p>
      <Help />
      <footer>
        <a href="/docs">API explorer</a>
        <a href="/openapi.json">openapi.json</a>
        <a href="/readyz">readyz</a>
        <span class="quiet">Press <kbd>?</kbd> for keys</span>
        <span id="attribution">{bundle.value?.attribution.join(" ")}</span>
      </footer>
    </>
  );
}

// The answers are on their way while the page is drawn.
if (page.value === "library") startLibrary();
void showLibrary();
const root = document.getElementById("app");
if (root) render(<App />, root);
