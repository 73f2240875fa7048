// The library in two dimensions: zoom by the wheel or the keys, move by dragging, draw around files to list them, play.

import { useEffect, useRef, useState } from "preact/hooks";
import type { Schemas } from "foley-client";
import { assetAddress, foley, lineOf, read } from "../api";
import { clamp, count, NAMES, nameOf } from "../format";
import { say } from "../state";
import { addToBasket } from "../work/collections";
import { follow } from "../search/follow";

type Found = Schemas["MapBody"];
type Point = Schemas["MapPointBody"];

type Place = [number, number];

interface View {
  zoom: number;
  x: number; // what stands in the middle
  y: number;
}

const WHOLE: View = { zoom: 1, x: 0, y: 0 };
const MAX_LISTED = 200;
const NEAR_PIXELS = 14;

const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function isInside([x, y]: Place, line: Place[]): boolean {
  let inside = false;
  line.forEach(([x1, y1], at) => {
    const [x2, y2] = line[(at + line.length - 1) % line.length]!;
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  });
  return inside;
}

export function LibraryMap() {
  const [found, setFound] = useState<Found | null>(null);
  const [method, setMethod] = useState<Found["method"]>("pca");
  const [said, setSaid] = useState("Projecting the library…");
  const [chosen, setChosen] = useState<Point[]>([]);
  useEffect(() => {
    setSaid("Projecting the library…");
    read(foley.GET("/v1/map", { params: { query: { method } } })).then((map) => {
      setFound(map);
      const numShown = new Set(map.points.map((point) => point.asset_id)).size;
      setSaid(`${numShown < map.num_assets ? `${numShown} of ` : ""}${count(map.num_assets, "file")}. What lies close together sounds or looks alike.`);
    }, (error) => setSaid(lineOf(error)));
  }, [method]);
  return (
    <div class="room library">
      <section class="panel" aria-labelledby="map-title">
        <div class="bar">
          <h2 id="map-title">Map of the library</h2>
          <span class="legend"><span class="dot is-audio" /> sound <span class="dot is-video" /> picture</span>
          {found && found.methods.length > 1 && (
            <label class="quiet">Projected by <select value={method} onChange={(event) => setMethod(event.currentTarget.value as Found["method"])}>
              {found.methods.map((name) => <option key={name} value={name}>{name.toUpperCase()}</option>)}
            </select></label>
          )}
        </div>
        <p class="quiet" role="status">{said}</p>
        {found && <Canvas points={found.points} chosen={chosen} onChoose={setChosen} />}
      </section>
      {chosen.length > 0 && <Chosen points={chosen} onClose={() => setChosen([])} />}
    </div>
  );
}

function Canvas({ points, chosen, onChoose }: { points: Point[]; chosen: Point[]; onChoose: (points: Point[]) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [view, setView] = useState(WHOLE);
  const [isLasso, setLasso] = useState(true);
  const line = useRef<Place[]>([]);
  const held = useRef<Place | null>(null);

  const scale = () => (Math.min(canvas.current!.clientWidth, canvas.current!.clientHeight) / 2.15) * view.zoom;
  const toPixels = ({ x, y }: { x: number; y: number }): Place => [
    canvas.current!.clientWidth / 2 + (x - view.x) * scale(), canvas.current!.clientHeight / 2 - (y - view.y) * scale(),
  ];
  const draw = () => {
    const element = canvas.current;
    if (!element) return;
    const ratio = Math.min(devicePixelRatio, 2);
    element.width = element.clientWidth * ratio;
    element.height = element.clientHeight * ratio;
    const context = element.getContext("2d")!;
    context.scale(ratio, ratio);
    const colours = { audio: colour("--accent"), video: "#c9701a" };
    const marked = new Set(chosen);
    const size = points.length > 2000 ? 2.2 : 4;
    for (const point of points) {
      const [x, y] = toPixels(point);
      if (x < -9 || y < -9 || x > element.clientWidth + 9 || y > element.clientHeight + 9) continue;
      context.fillStyle = colours[point.modality];
      context.globalAlpha = marked.size && !marked.has(point) ? 0.25 : 0.85;
      context.beginPath();
      context.arc(x, y, marked.has(point) ? size + 2 : size, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = colour("--text");
    context.beginPath();
    line.current.forEach(([x, y]) => context.lineTo(x, y));
    context.stroke();
  };
  useEffect(draw, [points, chosen, view]);
  useEffect(() => {
    const watch = new ResizeObserver(draw);
    if (canvas.current) watch.observe(canvas.current);
    return () => watch.disconnect();
  }, [points, chosen, view]);

  const zoom = (by: number) => setView((before) => ({ ...before, zoom: clamp(before.zoom * by, 0.5, 60) }));
  const move = (x: number, y: number) => setView((before) => ({ ...before, x: before.x + x / scale(), y: before.y + y / scale() }));
  const onKeyDown = (event: KeyboardEvent) => {
    const steps: Record<string, () => void> = {
      ArrowLeft: () => move(-60, 0), ArrowRight: () => move(60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
      "+": () => zoom(1.4), "-": () => zoom(1 / 1.4), Enter: chooseShown, Escape: () => onChoose([]),
    };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    step();
  };
  const chooseShown = () => {
    const { clientWidth, clientHeight } = canvas.current!;
    onChoose(points.filter((point) => {
      const [x, y] = toPixels(point);
      return x >= 0 && y >= 0 && x <= clientWidth && y <= clientHeight;
    }));
  };
  const down = (event: PointerEvent) => {
    canvas.current!.setPointerCapture(event.pointerId);
    held.current = [event.offsetX, event.offsetY];
    line.current = isLasso ? [[event.offsetX, event.offsetY]] : [];
  };
  const drag = (event: PointerEvent) => {
    if (!held.current) return;
    if (isLasso) {
      line.current.push([event.offsetX, event.offsetY]);
      draw();
    } else {
      move(held.current[0] - event.offsetX, event.offsetY - held.current[1]);
      held.current = [event.offsetX, event.offsetY];
    }
  };
  const up = (event: PointerEvent) => {
    held.current = null;
    if (!isLasso) return;
    const drawn = line.current;
    line.current = [];
    const here: Place = [event.offsetX, event.offsetY];
    const distance = (point: Point) => Math.hypot(toPixels(point)[0] - here[0], toPixels(point)[1] - here[1]);
    const isClick = drawn.length < 4;
    const near = isClick ? points.filter((point) => distance(point) < NEAR_PIXELS).sort((one, other) => distance(one) - distance(other)).slice(0, 1) : [];
    onChoose(isClick ? near : points.filter((point) => isInside(toPixels(point), drawn)));
    draw();
  };
  return (
    <>
      <div class="row" role="group" aria-label="How to use the map">
        <button type="button" class="small" aria-pressed={isLasso} onClick={() => setLasso(true)}>Draw around files</button>
        <button type="button" class="small" aria-pressed={!isLasso} onClick={() => setLasso(false)}>Move</button>
        <button type="button" class="small" aria-label="Zoom in" onClick={() => zoom(1.4)}>+</button>
        <button type="button" class="small" aria-label="Zoom out" onClick={() => zoom(1 / 1.4)}>−</button>
        <button type="button" class="small" onClick={() => setView(WHOLE)}>All of it</button>
        <button type="button" class="small" onClick={chooseShown}>List what is shown</button>
      </div>
      <div class="map">
        <canvas ref={canvas} role="application" tabIndex={0}
          aria-label={`Map of ${count(points.length, "point")}. Arrows move it, plus and minus zoom, Enter lists what is shown.`}
          onKeyDown={onKeyDown} onPointerDown={down} onPointerMove={drag} onPointerUp={up}
          onWheel={(event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15); }} />
      </div>
    </>
  );
}

function Chosen({ points, onClose }: { points: Point[]; onClose: () => void }) {
  const playing = useRef<HTMLVideoElement>(null);
  const [current, setCurrent] = useState<Point | null>(null);
  useEffect(() => {
    if (current) playing.current?.play().catch(() => say("This browser cannot play it."));
  }, [current]);
  return (
    <aside class="panel detail" aria-label="Files on the map">
      <div class="bar">
        <h2>{count(points.length, "point")}</h2>
        <button type="button" class="small" onClick={onClose}>Close</button>
      </div>
      {current && <video ref={playing} key={current.asset_id} src={assetAddress(current.asset_id, "/media")} controls playsInline aria-label={nameOf(current.path)} />}
      <ul class="plain">
        {points.slice(0, MAX_LISTED).map((point) => {
          const name = nameOf(point.path);
          const item = { asset_id: point.asset_id, modality: point.modality };
          return (
            <li key={`${point.asset_id} ${point.modality}`} class="pair-row" data-card tabIndex={-1} aria-label={name}>
              <a href={`#/library/${point.asset_id}`} title={point.path}>{name} <span class="quiet">{NAMES[point.modality]}</span></a>
              <button type="button" class="small" aria-label={`Play ${name}`} onClick={() => setCurrent(point)}>▶</button>
              <button type="button" class="small" data-key="m" onClick={() => follow(point, point.modality, point.modality)}>Similar</button>
              <button type="button" class="small" data-key="b" onClick={() => void addToBasket(item, name)}>Basket</button>
            </li>
          );
        })}
      </ul>
      {points.length > MAX_LISTED && <p class="quiet">The first {MAX_LISTED} are listed.</p>}
    </aside>
  );
}
