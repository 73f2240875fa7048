// Releases: gates and comparison, switching and rolling back; all of it needs a key with scope `admin` if keys are needed.

import { useEffect, useState } from "preact/hooks";
import { foley, lineOf, Problem, read, send } from "../api";
import { formatDate } from "../format";
import { goTo, say, showLibrary } from "../state";
import type { Gate, Release } from "../types";

const at = ({ release_id }: Release) => ({ path: { release_id } });

export function Releases() {
  const [releases, setReleases] = useState<Release[]>([]);
  const [fault, setFault] = useState("");
  const [isBusy, setBusy] = useState(false);
  const load = async () => {
    try {
      setReleases((await read(foley.GET("/v1/releases"))).releases.toReversed() as Release[]);
      setFault("");
    } catch (error) {
      setFault(error instanceof Problem && error.status === 403 ? "Releases need a key with the scope admin." : lineOf(error));
    }
  };
  useEffect(() => void load(), []);
  const change = async (asked: () => Promise<{ data?: { release_id: string } }>) => {
    setBusy(true);
    try {
      const { release_id: active } = await read(asked());
      say(`${active} is active.`);
      await load();
      await showLibrary();
    } catch (error) {
      setFault(lineOf(error));
    } finally {
      setBusy(false);
    }
  };
  const active = releases.find(({ state }) => state === "active");
  const previous = releases.find((release) => release.is_previous);
  const activate = (release: Release) => {
    const params = at(release);
    if (release.state !== "refused") return void change(() => foley.POST("/v1/releases/{release_id}:activate", { params }));
    const force = prompt(`${release.release_id} failed its gates. Why activate it all the same? The reason is recorded.`)?.trim();
    if (force) void change(() => foley.POST("/v1/releases/{release_id}:activate", { params, body: { force } }));
  };
  const remove = async (release: Release) => {
    if (!confirm(`Delete ${release.release_id}, its bundle and its index?`)) return;
    await foley.DELETE("/v1/releases/{release_id}", { params: at(release) }).then(load, (error) => setFault(lineOf(error)));
  };
  return (
    <div class="room">
      <section class="panel" aria-labelledby="releases-title">
        <div class="bar">
          <h2 id="releases-title">Releases</h2>
          {previous && <button type="button" disabled={isBusy} onClick={() => void change(() => foley.POST("/v1/releases:rollback"))}>Roll back to {previous.release_id}</button>}
        </div>
        <p role="alert" class="fault">{fault}</p>
        {!releases.length && !fault && <p class="quiet">No release was built here: the bundle of the settings answers.</p>}
        <ul class="plain items">
          {releases.map((release) => (
            <li key={release.release_id} data-card tabIndex={-1} class="stack">
              <div class="bar">
                <span class="name">{release.release_id}</span>
                <span class={`state is-${release.state}`}>{release.state}</span>
                <span class="quiet">{formatDate(release.created_at)}</span>
                {release.state !== "active" && release.state !== "building" && (
                  <button type="button" class="small" disabled={isBusy} aria-label={`Activate ${release.release_id}`} onClick={() => activate(release)}>Activate</button>
                )}
                {active && release !== active && <Comparison release={release} active={active} onFault={setFault} />}
                {release.state !== "active" && <button type="button" class="small danger" onClick={() => void remove(release)}>Delete…</button>}
              </div>
              <p class="quiet">
                Bundle {release.bundle_id}{release.library.num_segments ? `, ${release.library.num_segments} segments` : ""}
                {release.has_calibration ? ", calibrated" : ", not calibrated"}
                {release.is_previous ? ". A rollback activates it." : "."}
              </p>
              {release.gates.reasons?.map((reason) => <p key={reason} class="fault">{reason}</p>)}
              {release.gates.gates && <Gates gates={release.gates.gates} />}
            </li>
          ))}
        </ul>
        <Build />
      </section>
    </div>
  );
}

function Gates({ gates }: { gates: Gate[] }) {
  const number = (value: number | null) => (value === null ? "–" : Math.abs(value) >= 1e6 ? value.toExponential(2) : Number(value.toPrecision(4)));
  return (
    <details>
      <summary>Gates: {gates.filter((gate) => gate.passed).length} of {gates.length} passed</summary>
      <div class="scroll" tabIndex={0} role="region" aria-label="Gates">
        <table>
          <thead><tr><th scope="col">Gate</th><th scope="col">New</th><th scope="col">Active</th><th scope="col">Limit</th><th scope="col">Result</th></tr></thead>
          <tbody>
            {gates.map((gate) => (
              <tr key={gate.gate}>
                <th scope="row">{gate.gate}</th><td>{number(gate.value)}</td><td>{number(gate.active)}</td><td>{number(gate.limit)}</td>
                <td class={gate.passed ? "good" : "fault"}>{gate.reason || (gate.passed ? "passed" : "failed")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}

/** The service draws the comparison as a page of its own; it is opened beside this one, with the key. */
function Comparison({ release, active, onFault }: { release: Release; active: Release; onFault: (fault: string) => void }) {
  const show = async () => {
    try {
      const [one, other] = [release, active].map(({ release_id }) => encodeURIComponent(release_id));
      const answer = await send(new Request(`/v1/releases/${one}/comparison/${other}`));
      open(URL.createObjectURL(await answer.blob()), "_blank", "noopener");
    } catch (error) {
      onFault(lineOf(error));
    }
  };
  return <button type="button" class="small" onClick={() => void show()}>Compare with the active one</button>;
}

function Build() {
  const [bundle, setBundle] = useState("");
  const [said, setSaid] = useState("");
  const submit = async (event: Event) => {
    event.preventDefault();
    await read(foley.POST("/v1/releases", { body: { bundle } })).then((job) => goTo("jobs", job.job_id), (error) => setSaid(lineOf(error)));
  };
  return (
    <form class="hint stack" onSubmit={submit}>
      <label class="field">Build a release of a bundle: its folder on the machine of the service
        <input required placeholder="/models/mine" value={bundle} onInput={(event) => setBundle(event.currentTarget.value)} />
      </label>
      <div class="row"><button type="submit">Build</button><span class="quiet" role="status">{said}</span></div>
    </form>
  );
}
