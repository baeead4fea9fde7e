/** The map of layers and steps. */

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import type { Column, Layer } from "../data/contract";
import { at, type Grid } from "../data/merge";
import { type ColorScale, colorScale, css, pack, parseColor, type Rgb, settledRows, usualRange } from "../logic/colors";
import { columnValue, count, number } from "../logic/format";
import { type Group, type GroupBy, type Row, rowOf, rowsOf, shortName } from "../logic/groups";
import { fittingHeight, layoutRows, type RowLayout } from "../logic/layout";
import { type Mark, MarkFinder } from "../logic/marks";
import { CellColors, paint } from "../logic/paint";
import { lastAtMost, reportAt, type Spans } from "../logic/steps";
import { worstInWords, worstOf } from "../logic/worst";
import { type Palette, palette, usePlot, clipped } from "./plot";
import { shareOf, type TimeAxis, timeOptions } from "./time";

export interface MapProps {
  readonly axis: TimeAxis;
  readonly layers: readonly Layer[];
  readonly column: Column;
  readonly grid: Grid | undefined;
  readonly reliable: Grid | undefined;
  readonly traps: Grid | undefined;
  readonly steps: readonly number[];
  readonly spans: Spans;
  readonly groups: readonly Group[];
  readonly by: GroupBy;
  readonly closed: ReadonlySet<string>;
  readonly tall: boolean;
  readonly selection: { readonly layer: number; readonly report: number } | null;
  readonly select: (layer: number, report: number) => void;
  readonly toggle: (group: string) => void;
  readonly error: string;
}

const MOST_HEIGHT = 480;
const TALL_ROW = 15;

const rgb = (text: string): Rgb => parseColor(/^#[0-9a-f]{6}$/i.test(text) ? text : "#ffffff");

/** What painting and pointing need, always the newest. */
interface Scene extends MapProps {
  readonly rows: readonly Row[];
  readonly layout: RowLayout;
  readonly scale: ColorScale;
  readonly marks: readonly Mark[];
  readonly colors: Palette;
  readonly offset: number;
}

function layerOf(scene: Scene, row: number, report: number): number {
  const { layers } = scene.rows[row] as Row;
  if (layers.length === 1) return layers[0] as number;
  return worstOf(scene.column, layers, (layer) => at(scene.grid, report, layer));
}

function rowAt({ layout }: Scene, y: number): number {
  const row = lastAtMost(layout.tops, y);
  return row >= 0 && y < (layout.tops[row] as number) + (layout.heights[row] as number) ? row : -1;
}

/** What is kept from one drawing to the next. */
interface Picture {
  image: ImageData;
  reports: Int32Array;
  /** Apart from the reports and the colours of their cells, what the image depends on. */
  depends: readonly unknown[];
  readonly cells: CellColors;
}

const newPicture = (): Picture => ({
  image: new ImageData(1, 1),
  reports: new Int32Array(0),
  depends: [],
  cells: new CellColors(),
});

function paintMap(u: uPlot, scene: Scene, picture: Picture): void {
  const { left, top, width, height } = u.bbox;
  const [w, h] = [Math.round(width), Math.round(height)];
  if (w < 1 || h < 1) return;
  if (picture.image.width !== w || picture.image.height !== h) picture.image = new ImageData(w, h);
  const ratio = devicePixelRatio;
  const [from, to] = scene.axis.range;
  const reports = Int32Array.from({ length: w }, (_, x) => reportAt(scene.spans, from + ((x + 0.5) / w) * (to - from)));
  const lines = Int32Array.from({ length: h }, (_, y) => rowAt(scene, (y + 0.5) / ratio + scene.offset));
  const changed = picture.cells.update({
    ...scene,
    reliable: scene.column.scale === "alpha" ? scene.reliable : undefined,
    layerOf: (row, report) => layerOf(scene, row, report),
  });
  // One more report changes what is right of the others only, as long as the axis stays.
  const depends = [picture.image, scene.layout, scene.offset, scene.colors, ratio];
  const isSame = depends.every((each, i) => each === picture.depends[i]);
  const first = isSame ? reports.findIndex((r, x) => r !== picture.reports[x] || r >= changed) : 0;
  Object.assign(picture, { reports, depends });
  paint(
    {
      width: w,
      height: h,
      from: first < 0 ? w : first,
      reports,
      lines,
      cells: picture.cells,
      none: [pack(rgb(scene.colors.empty)), pack(rgb(scene.colors.hatch))],
      background: pack(rgb(scene.colors.surface)),
    },
    new Uint32Array(picture.image.data.buffer),
  );
  u.ctx.putImageData(picture.image, Math.round(left), Math.round(top));
}

function drawMark(context: CanvasRenderingContext2D, kind: "tail" | "trap", x: number, y: number, size: number): void {
  const r = devicePixelRatio * size;
  context.beginPath();
  if (kind === "tail") {
    context.moveTo(x - 2.5 * r, y - 3 * r);
    context.lineTo(x + 3 * r, y);
    context.lineTo(x - 2.5 * r, y + 3 * r);
    context.closePath();
    context.fillStyle = "#ffffff";
    context.strokeStyle = "#1c2128";
    context.lineWidth = r;
    context.fill();
    context.stroke();
    return;
  }
  const arm = 4 * r;
  context.moveTo(x - arm, y - arm);
  context.lineTo(x + arm, y + arm);
  context.moveTo(x + arm, y - arm);
  context.lineTo(x - arm, y + arm);
  context.lineCap = "round";
  context.strokeStyle = "#ffffff";
  context.lineWidth = 4.5 * r;
  context.stroke();
  context.strokeStyle = "#1c2128";
  context.lineWidth = 2 * r;
  context.stroke();
}

function drawMarks(u: uPlot, scene: Scene): void {
  const place = new Map<number, number>();
  scene.rows.forEach((row, i) => {
    for (const layer of row.layers) place.set(layer, i);
  });
  const { top, height } = u.bbox;
  clipped(u, (context) => {
    for (const { kind, layer, report } of scene.marks) {
      const row = place.get(layer);
      if (row === undefined || report >= scene.steps.length) continue;
      const middle = (scene.layout.tops[row] as number) + (scene.layout.heights[row] as number) / 2 - scene.offset;
      const y = top + middle * devicePixelRatio;
      if (y < top - 9 || y > top + height + 9) continue;
      // Hundreds of thin rows have many tails: small marks leave the colours in view.
      const size = kind === "tail" && (scene.layout.heights[row] as number) < 6 ? 0.75 : 1;
      drawMark(context, kind, u.valToPos(scene.steps[report] as number, "x", true), y, size);
    }
  });
}

/** The chosen cell, its row and its step. It lies over the picture, which is not drawn again for it. */
function Selection({ scene, bar }: { scene: Scene; bar: number }) {
  const { selection, spans, layout, axis: time } = scene;
  if (!selection) return null;
  const left = shareOf(time, spans.left[selection.report] as number);
  const right = shareOf(time, spans.right[selection.report] as number);
  const middle = `${50 * (left + right)}%`;
  const row = rowOf(scene.rows, selection.layer);
  const top = (layout.tops[row] ?? 0) - scene.offset;
  const tall = layout.heights[row] ?? 0;
  return (
    <div class="selection" style={{ left: `${time.gutter}px`, right: `${time.right - bar}px` }}>
      <i class="now" style={{ left: middle }} />
      {row >= 0 && (
        <>
          <i class="chosen-row" style={{ top: `${top}px`, height: `${tall}px` }} />
          <i
            class="chosen-cell"
            style={{ left: middle, width: `${100 * (right - left)}%`, top: `${top}px`, height: `${tall}px` }}
          />
        </>
      )}
    </div>
  );
}

/** What is under the cursor, in words. */
function describe(scene: Scene, layer: number, report: number): string {
  const value = at(scene.grid, report, layer);
  const parts = [`step ${count(scene.steps[report])}`];
  const name = scene.column.name;
  parts.push(Number.isNaN(value) ? "no fit" : `${name} ${columnValue(scene.column, value)}`);
  if (at(scene.reliable, report, layer) === 0) parts.push("no reliable tail");
  const traps = at(scene.traps, report, layer);
  if (traps > 0) parts.push(traps === 1 ? "1 trap" : `${count(traps)} traps`);
  return parts.join(" · ");
}

export function LayerMap(props: MapProps) {
  const { groups, closed, layers, column, grid, tall, axis: time } = props;
  const rows = useMemo(() => rowsOf(groups, closed), [groups, closed]);
  const layout = useMemo(
    () => layoutRows(groups, rows, tall ? TALL_ROW : fittingHeight(groups, rows, MOST_HEIGHT)),
    [groups, rows, tall],
  );
  // Colours follow the theme.
  const colors = useMemo(palette, [time.theme]);
  const settled = settledRows(grid?.rows ?? 0);
  const scale = useMemo(
    () => colorScale(column, usualRange(grid, settled), rgb(colors.surface)),
    [column, grid?.base, settled, colors],
  );
  const shown = useMemo(() => groups.flatMap((group) => group.layers), [groups]);
  const finder = useMemo(() => new MarkFinder(), []);
  const marks = useMemo(() => finder.find(props.reliable, props.traps), [props.reliable, props.traps]);
  const [offset, setOffset] = useState(0);
  const [bar, setBar] = useState(0);
  const scroller = useRef<HTMLDivElement>(null);
  const tip = useRef<HTMLDivElement>(null);
  const height = Math.max(40, Math.min(MOST_HEIGHT, layout.total));
  const scene = useRef<Scene>(null as unknown as Scene);
  scene.current = { ...props, rows, layout, scale, marks, colors, offset };
  const shared = useRef(time);
  shared.current = time;

  // A scroll bar comes and goes with the height.
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element) setBar(element.offsetWidth - element.clientWidth);
  }, [layout.total, height]);

  const data = useMemo(
    (): uPlot.AlignedData => [props.steps as number[], new Array<null>(props.steps.length).fill(null)],
    [props.steps],
  );
  const { box } = usePlot({
    data,
    height,
    structure: [time.theme, time.gutter, time.right, bar],
    drawing: [time.range, grid, props.reliable, marks, scale, layout, offset],
    build: () => {
      const options = timeOptions(shared);
      const picture = newPicture();
      return {
        padding: [0, time.right - bar, 0, time.gutter],
        legend: options.legend as uPlot.Legend,
        cursor: { ...options.cursor, y: true, points: { show: false } } as uPlot.Cursor,
        scales: { x: options.x, y: { range: [0, 1] } },
        axes: [{ show: false }, { show: false }],
        series: [{}, { points: { show: false } }],
        hooks: {
          ...options.hooks,
          draw: [
            (u) => {
              paintMap(u, scene.current, picture);
              drawMarks(u, scene.current);
            },
          ],
          ready: [(u) => point(u, scene)],
          setCursor: [(u) => showTip(u, scene.current, tip.current)],
        },
      };
    },
  });

  // The selected row stays in view.
  const chosen = props.selection?.layer ?? -1;
  useEffect(() => {
    const row = rowOf(rows, chosen);
    const element = scroller.current;
    if (row < 0 || !element) return;
    const [top, tallness] = [layout.tops[row] as number, layout.heights[row] as number];
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + tallness > element.scrollTop + height) element.scrollTop = top + tallness - height;
  }, [chosen, layout, rows, height]);

  const empty = shown.length === 0;
  return (
    <div class="map">
      {/* Arrow keys move the selected cell. */}
      <div
        class="map-scroll"
        ref={scroller}
        tabIndex={0}
        role="application"
        aria-label={`Map of ${column.name}: ${shown.length} layers, ${props.steps.length} steps. Arrow keys move the selected cell.`}
        data-keys="map"
        style={{ height: `${height}px` }}
        onScroll={(event) => setOffset(event.currentTarget.scrollTop)}
      >
        <div class="map-tall" style={{ height: `${layout.total}px` }}>
          <div class="map-stage" style={{ height: `${height}px` }}>
            <div ref={box} class="plot" />
            <Selection scene={scene.current} bar={bar} />
          </div>
          <Labels
            {...{ groups, by: props.by, rows, layout, layers, closed }}
            width={time.gutter}
            toggle={props.toggle}
            choose={(layer) => props.select(layer, props.selection?.report ?? props.steps.length - 1)}
            chosen={chosen}
          />
        </div>
      </div>
      <div class="tip" ref={tip} hidden />
      {empty && <p class="note">No layer's name holds this.</p>}
      {!empty && props.error && <p class="note">{props.error}</p>}
      {!empty && !grid && !props.error && <p class="note">Loading {column.name} …</p>}
      <Legend column={column} scale={scale} colors={colors} closed={closed.size > 0} />
    </div>
  );
}

/** A click selects the cell; the map keeps the focus for the arrow keys. */
function point(u: uPlot, scene: { current: Scene }): void {
  u.over.addEventListener("click", (event) => {
    const now = scene.current;
    const box = u.over.getBoundingClientRect();
    const row = rowAt(now, event.clientY - box.top + now.offset);
    const report = reportAt(now.spans, u.posToVal(event.clientX - box.left, "x"));
    if (row >= 0 && report >= 0) now.select(layerOf(now, row, report), report);
  });
}

function showTip(u: uPlot, scene: Scene, tip: HTMLElement | null): void {
  if (!tip) return;
  const { left, top } = u.cursor;
  const row = left !== undefined && top !== undefined && top >= 0 ? rowAt(scene, top + scene.offset) : -1;
  const report = row >= 0 ? reportAt(scene.spans, u.posToVal(left as number, "x")) : -1;
  tip.hidden = report < 0 || !u.over.matches(":hover");
  if (tip.hidden) return;
  const layer = layerOf(scene, row, report);
  const heading = document.createElement("bdi");
  heading.textContent = scene.layers[layer]?.shown ?? "";
  const more = (scene.rows[row]?.layers.length ?? 1) > 1 ? ` (worst of ${scene.rows[row]?.layers.length})` : "";
  const line = document.createElement("div");
  line.textContent = describe(scene, layer, report) + more;
  tip.replaceChildren(heading, line);
  const x = (left as number) + scene.axis.gutter;
  const width = tip.offsetWidth;
  const room = u.root.clientWidth;
  tip.style.left = `${x + 14 + width > room ? Math.max(0, x - width - 14) : x + 14}px`;
  tip.style.top = `${(top as number) + 14}px`;
}

interface LabelProps {
  groups: readonly Group[];
  by: GroupBy;
  rows: readonly Row[];
  layout: RowLayout;
  layers: readonly Layer[];
  closed: ReadonlySet<string>;
  width: number;
  toggle: (group: string) => void;
  choose: (layer: number) => void;
  chosen: number;
}

/** Names left of the map: groups always, layers where rows are high enough. */
function Labels({ groups, by, rows, layout, layers, closed, width, toggle, choose, chosen }: LabelProps) {
  const names = rows.length > 0 && Math.min(...layout.heights) >= 12;
  // Names of layers stand beside the name of their group; a row that is the whole group needs no second name.
  const half = names && rows.length > groups.length ? Math.round(width * 0.44) : width;
  return (
    <div class="labels">
      {groups.map((group, i) => {
        const place = layout.groups[i];
        const many = group.layers.length > 1;
        const whole = !many || closed.has(group.name);
        const text = (
          <>
            <span class="twist" aria-hidden="true">
              {many ? (closed.has(group.name) ? "▸" : "▾") : ""}
            </span>
            <bdi>{group.name}</bdi>
            {many && (whole || !names) && (
              <span class="amount">
                {closed.has(group.name) ? `worst of ${group.layers.length}` : group.layers.length}
              </span>
            )}
          </>
        );
        const style = {
          top: `${place?.top ?? 0}px`,
          height: `${place?.height ?? 0}px`,
          width: `${(whole ? width : half) - 6}px`,
        };
        return many ? (
          <button
            type="button"
            class="group"
            key={group.name}
            style={style}
            title={group.name}
            aria-expanded={!closed.has(group.name)}
            onClick={() => toggle(group.name)}
          >
            {text}
          </button>
        ) : (
          <span class="group" key={group.name} style={style} title={group.name}>
            {text}
          </span>
        );
      })}
      {names &&
        rows.map((row, i) => {
          const layer = layers[row.layers[0] as number] as Layer;
          if (row.closed || (groups.find(({ name }) => name === row.group)?.layers.length ?? 0) < 2) return null;
          return (
            <button
              type="button"
              tabIndex={-1}
              class={row.layers.includes(chosen) ? "row-name chosen" : "row-name"}
              key={row.layers[0]}
              onClick={() => choose(row.layers[0] as number)}
              title={layer.shown}
              style={{
                top: `${layout.tops[i]}px`,
                height: `${layout.heights[i]}px`,
                left: `${half}px`,
                width: `${width - half - 6}px`,
              }}
            >
              <bdi>{by === "kind" ? layer.block || layer.shown : shortName(layer)}</bdi>
            </button>
          );
        })}
    </div>
  );
}

function Legend({
  column,
  scale,
  colors,
  closed,
}: {
  column: Column;
  scale: ColorScale;
  colors: Palette;
  closed: boolean;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    scale.colors.forEach((color, i) => {
      context.fillStyle = css(color);
      context.fillRect(i / 2, 0, 1, 10);
    });
  }, [scale]);
  const words = column.kind === "words" || column.kind === "flag";
  const place = (value: number): number =>
    ((scale.log ? Math.log10(value) : value) - scale.low) / (scale.high - scale.low);
  const label = (value: number): string => columnValue(column, value);
  return (
    <div class="legend">
      {words ? (
        scale.labels.map((code) => {
          const color = scale.colors[Math.floor(((code + 0.5) / scale.labels.length) * scale.colors.length)] ?? 0;
          return (
            <span class="legend-item" key={code}>
              <i class="swatch" style={{ background: css(color) }} />
              {label(code) === "–" ? "nothing to say" : label(code)}
            </span>
          );
        })
      ) : (
        <span class="scale">
          <canvas ref={canvas} width={256} height={10} aria-hidden="true" />
          {scale.labels.map((value) => (
            <span key={value} style={{ left: `${100 * place(value)}%` }}>
              {column.kind === "count" ? count(value) : number(value, 2)}
            </span>
          ))}
        </span>
      )}
      {column.scale === "alpha" && (
        <>
          <span>
            below 2 <b>violet</b>, 2 to 6 <b>green</b>, above 6 <b>orange</b>
          </span>
          <span class="legend-item">
            <i class="swatch pale" style={{ background: css(scale.pale[110] ?? 0) }} />
            pale: no reliable tail
          </span>
        </>
      )}
      <span class="legend-item">
        <i
          class="swatch"
          style={{ background: `repeating-linear-gradient(135deg, ${colors.empty} 0 2px, ${colors.hatch} 2px 3px)` }}
        />
        hatched: no value
      </span>
      <span class="legend-item">
        <b class="mark-tail" aria-hidden="true" />a tail formed
      </span>
      <span class="legend-item">
        <b class="mark-trap" aria-hidden="true">
          ✕
        </b>
        a trap came
      </span>
      {closed && <span class="legend-item">A closed group shows its worst layer ({worstInWords(column)}).</span>}
    </div>
  );
}
