// A virtual list: of any number of files, only the rows in sight are elements of the page.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { formatTime, NAMES, nameOf } from "../format";
import { goTo } from "../state";
import type { Asset } from "../types";
import { addToBasket } from "../work/collections";
import { follow } from "../search/follow";
import { Thumbnail } from "./thumbnail";
import { Waveform } from "../waveform";

const CARD_WIDTH = 220;
const CARD_HEIGHT = 208;
const ROW_HEIGHT = 64;
const OVERSCAN = 2; // rows above and below those in sight, once these are drawn
const SETTLE_MILLISECONDS = 100;

interface Props {
  assets: (Asset | null)[]; // null: not in memory now
  isList: boolean;
  onEnd: () => void;
  onView: (first: number, last: number) => void;
}

interface Span {
  columns: number;
  first: number; // row
  last: number; // row, exclusive
}

export function Grid({ assets, isList, onEnd, onView }: Props) {
  const box = useRef<HTMLUListElement>(null);
  const [span, setSpan] = useState<Span>({ columns: 1, first: 0, last: 8 });
  const [overscan, setOverscan] = useState(0);
  useEffect(() => {
    if (!assets.length || overscan) return undefined;
    const timer = setTimeout(() => setOverscan(OVERSCAN), SETTLE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [assets.length > 0]);
  const height = isList ? ROW_HEIGHT : CARD_HEIGHT;
  const measure = () => {
    const element = box.current;
    if (!element) return;
    const { top, width } = element.getBoundingClientRect();
    const columns = isList ? 1 : Math.max(1, Math.floor(width / (width < 420 ? width / 2 : CARD_WIDTH)));
    const first = Math.max(0, Math.floor(-top / height) - overscan);
    const last = Math.max(0, Math.ceil((innerHeight - top) / height)) + overscan;
    setSpan((before) => (before.columns === columns && before.first === first && before.last === last ? before : { columns, first, last }));
  };
  useLayoutEffect(measure, [isList, assets.length, overscan]);
  useEffect(() => {
    const watch = new ResizeObserver(measure);
    if (box.current) watch.observe(box.current);
    addEventListener("scroll", measure, { passive: true });
    return () => {
      watch.disconnect();
      removeEventListener("scroll", measure);
    };
  }, [isList, overscan]);
  const rows = Math.ceil(assets.length / span.columns);
  useEffect(() => {
    if (span.last >= rows && assets.length) onEnd();
    onView(span.first * span.columns, span.last * span.columns);
  }, [span.first, span.last, rows]);
  const from = span.first * span.columns;
  const shown = assets.slice(from, span.last * span.columns);
  return (
    <ul ref={box} class={isList ? "grid is-list" : "grid"} aria-label="Files" style={{ height: `${rows * height}px` }}>
      {shown.map((asset, number) => {
        const at = from + number;
        const style = {
          width: `${100 / span.columns}%`, height: `${height}px`,
          transform: `translate(${100 * (at % span.columns)}%, ${Math.floor(at / span.columns) * height}px)`,
        };
        return (
          <li key={asset?.asset_id ?? at} style={style} aria-setsize={assets.length} aria-posinset={at + 1}>
            {asset ? <Card asset={asset} columns={span.columns} isList={isList} /> : <article class="card" aria-busy="true" />}
          </li>
        );
      })}
    </ul>
  );
}

function Card({ asset, columns, isList }: { asset: Asset; columns: number; isList: boolean }) {
  const name = nameOf(asset.path);
  const kind = asset.modalities.includes("video") ? "video" : "audio";
  const facts = [
    asset.media.duration_seconds === null ? "" : formatTime(asset.media.duration_seconds), asset.modalities.map((one) => NAMES[one]).join(" + "),
  ];
  const walk = (event: KeyboardEvent) => {
    if (event.key === "Enter" && event.target === event.currentTarget) return goTo("library", asset.asset_id);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    const row = (event.currentTarget as HTMLElement).parentElement;
    if (step === undefined || !row) return;
    event.preventDefault();
    const cards = [...row.parentElement!.querySelectorAll<HTMLElement>("[data-card]")];
    const next = cards[cards.indexOf(event.currentTarget as HTMLElement) + step];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "center" });
  };
  return (
    <article class="card" data-card tabIndex={0} aria-label={name} onKeyDown={walk}>
      <a class="picture" href={`#/library/${asset.asset_id}`} tabIndex={-1} aria-hidden="true">
        {kind === "video" ? <Thumbnail assetId={asset.asset_id} /> : <Waveform assetId={asset.asset_id} />}
      </a>
      <a class="name" href={`#/library/${asset.asset_id}`} title={asset.path} tabIndex={-1}>{name}</a>
      <span class="quiet">{facts.filter(Boolean).join(" · ")}</span>
      {!isList && <span class="spacer" />}
      <div class="tools">
        <button type="button" class="small" data-key="m" tabIndex={-1} onClick={() => follow(asset, kind, kind)}>Similar</button>
        <button type="button" class="small" data-key="b" tabIndex={-1} onClick={() => void addToBasket({ asset_id: asset.asset_id }, name)}>Basket</button>
      </div>
    </article>
  );
}
