/** Charts over the steps. All have the same axis and one cursor. */

import type { ComponentChildren } from "preact";
import { useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Curve, CurveGroup, Numbers, Rule, Run } from "../data/contract";
import { count, number } from "../logic/format";
import { rateInWords } from "../logic/rate";
import { linePoints } from "../logic/sparkline";
import { ascending } from "../logic/steps";
import { axis, palette, usePlot } from "./plot";

/** What all charts over the steps share. */
export interface TimeAxis {
  readonly range: readonly [number, number];
  readonly theme: string;
  /** Width left of the plots, for labels. */
  readonly gutter: number;
  /** Width right of the plots, for a scroll bar. */
  readonly right: number;
  readonly selected: number | null;
  readonly zoom: (range: readonly [number, number] | null) => void;
}

export const SYNC = "steps";

/** Where a step is on the axis: 0 at its left end, 1 at its right end. */
export const shareOf = ({ range: [from, to] }: TimeAxis, step: number): number => (step - from) / (to - from);

/** The parts of the options that are the same in all charts over the steps. */
export function timeOptions(axisRef: {
  current: TimeAxis;
}): Pick<uPlot.Options, "cursor" | "legend" | "hooks"> & { x: uPlot.Scale } {
  return {
    x: { time: false, range: () => [...axisRef.current.range] as [number, number] },
    legend: { show: false },
    cursor: {
      points: { size: 5 },
      drag: { x: true, y: false, setScale: false },
      sync: { key: SYNC, scales: ["x", null], setSeries: false },
      bind: {
        dblclick: () => () => {
          axisRef.current.zoom(null);
          return null;
        },
      },
    },
    hooks: {
      setSelect: [
        (u: uPlot) => {
          if (u.select.width < 6) return;
          const from = u.posToVal(u.select.left, "x");
          const to = u.posToVal(u.select.left + u.select.width, "x");
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          axisRef.current.zoom([from, to]);
        },
      ],
    },
  };
}

interface LinesProps {
  axis: TimeAxis;
  title: string;
  data: uPlot.AlignedData;
  series: readonly { label: string; color: string; width?: number; dash?: number[] }[];
  band?: { high: number; low: number; fill: string };
  height: number;
  labels: boolean;
  guides?: readonly number[];
  /** Switches in the heading. */
  extra?: ComponentChildren;
}

/** Lines over the steps, with their values under the cursor in the heading. */
function Lines(props: LinesProps) {
  const shared = useRef(props.axis);
  shared.current = props.axis;
  const guides = useRef(props.guides);
  guides.current = props.guides;
  const values = useRef<HTMLSpanElement>(null);
  const { series } = props;
  const { theme, gutter, right, selected } = props.axis;
  const structure = [theme, gutter, right, props.labels, series.map((s) => s.label).join("\n")];
  const { box } = usePlot({
    data: props.data,
    height: props.height,
    structure,
    drawing: [props.axis.range],
    build: () => {
      const colors = palette();
      const time = timeOptions(shared);
      return {
        padding: [6, right, props.labels ? 0 : 6, 0],
        legend: time.legend as uPlot.Legend,
        cursor: { ...time.cursor, y: false } as uPlot.Cursor,
        scales: { x: time.x, y: { range: (_u, low, high) => padded(low, high) } },
        axes: [
          axis(colors, {
            show: props.labels,
            size: 22,
            values: (u, splits) => splits.map((v) => (hasRoom(u, v) ? count(v) : "")),
            space: 70,
          }),
          axis(colors, {
            size: gutter,
            space: 24,
            values: (u, splits) => splits.map((v) => (hasValues(u) ? number(v, 4) : "")),
          }),
        ],
        series: [
          {},
          ...series.map(({ color, width = 1.5, dash }) => ({
            stroke: color,
            width,
            points: { show: false },
            spanGaps: true,
            ...(dash ? { dash } : {}),
          })),
        ],
        ...(props.band ? { bands: [{ series: [props.band.high, props.band.low], fill: props.band.fill }] } : {}),
        hooks: {
          ...time.hooks,
          draw: [
            (u) => {
              for (const y of guides.current ?? []) horizontalLine(u, y, colors.muted);
            },
          ],
          setCursor: [
            (u) => {
              if (values.current) values.current.textContent = cursorText(u, series);
            },
          ],
        },
      };
    },
  });
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{props.title}</span>
        <span class="keys">
          {series.map(({ label, color, dash }) => (
            <span class="key" key={label}>
              <i class={dash ? "dash" : ""} style={{ borderColor: color }} />
              <bdi>{label}</bdi>
            </span>
          ))}
        </span>
        <span class="readout" ref={values} />
        {props.extra}
      </figcaption>
      <div class="stage">
        <div ref={box} class="plot" role="img" aria-label={props.title} />
        <div
          class="selection"
          style={{ left: `${gutter}px`, right: `${right}px`, bottom: props.labels ? "22px" : "6px" }}
        >
          {selected !== null && <i class="now" style={{ left: `${100 * shareOf(props.axis, selected)}%` }} />}
        </div>
      </div>
    </figure>
  );
}

function padded(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.5;
  return [low - margin, high + margin];
}

/** An axis without a line has no numbers, since they would mean nothing. */
const hasValues = (u: uPlot): boolean => u.data.slice(1).some((values) => values.some((v) => v !== null));

/** Whether the label of a step fits between its tick and the right end of the chart. */
function hasRoom(u: uPlot, step: number): boolean {
  const room = u.width - u.bbox.left / devicePixelRatio - u.valToPos(step, "x");
  return room > 3.2 * count(step).length;
}

function horizontalLine(u: uPlot, y: number, color: string): void {
  const at = Math.round(u.valToPos(y, "y", true)) + 0.5;
  const { left, top, width, height } = u.bbox;
  if (at < top || at > top + height) return;
  u.ctx.save();
  u.ctx.strokeStyle = color;
  u.ctx.globalAlpha = 0.6;
  u.ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  u.ctx.beginPath();
  u.ctx.moveTo(left, at);
  u.ctx.lineTo(left + width, at);
  u.ctx.stroke();
  u.ctx.restore();
}

function cursorText(u: uPlot, series: readonly { label: string }[]): string {
  const index = u.cursor.idx;
  if (index === null || index === undefined) return "";
  const parts = series.flatMap(({ label }, i) => {
    const value = lastValue(u.data[i + 1] as Numbers, index);
    return value === null ? [] : [`${label.length > 24 ? `${label.slice(0, 23)}…` : label} ${number(value, 4)}`];
  });
  return parts.length ? `step ${count(u.data[0][index])}: ${parts.join(", ")}` : "";
}

/** Sparse curves have a value at some of the steps only: the last one holds. */
function lastValue(values: Numbers, index: number): number | null {
  for (let i = index; i >= 0 && i > index - 200; i--) {
    const value = values[i];
    if (value !== null && value !== undefined) return value;
  }
  return null;
}

const nulls = (values: Numbers | undefined, length: number): Numbers => values ?? new Array<null>(length).fill(null);

interface AlphaProps {
  run: Run;
  steps: number[];
  axis: TimeAxis;
  extra: ComponentChildren;
}

export function AlphaChart({ run, steps, axis: time, extra }: AlphaProps) {
  const { summary } = run;
  const data = useMemo((): uPlot.AlignedData => {
    const names = ["alpha_max", "alpha_min", "alpha_median", "alpha"];
    return [steps, ...names.map((name) => nulls(summary[name], steps.length))];
  }, [summary, steps]);
  // Colours follow the theme.
  const colors = useMemo(palette, [time.theme]);
  return (
    <Lines
      axis={time}
      title="alpha of the layers"
      data={data}
      series={[
        { label: "largest", color: `${colors.series[0]}80`, width: 1 },
        { label: "smallest", color: `${colors.series[0]}80`, width: 1 },
        { label: "median", color: colors.series[0] ?? "", width: 1, dash: [4, 3] },
        { label: "mean", color: colors.series[0] ?? "", width: 2 },
      ]}
      band={{ high: 1, low: 2, fill: `${colors.series[0]}26` }}
      height={100}
      labels
      guides={[2, 6]}
      extra={extra}
    />
  );
}

const GROUPS: readonly { group: CurveGroup; title: string }[] = [
  { group: "loss", title: "loss" },
  { group: "quality", title: "quality" },
  { group: "rate", title: "learning rate" },
  { group: "other", title: "other curves" },
];

/** Losses, or the first kind of curves that there is. */
export function shownAtFirst(curves: readonly Curve[]): ReadonlySet<CurveGroup> {
  const first = GROUPS.find(({ group }) => curves.some((curve) => curve.group === group));
  return new Set(first ? [first.group] : []);
}

/** More lines than this in one chart cannot be told apart. */
const MOST_LINES = 6;

function CurveChart({
  curves,
  title,
  axis: time,
  extra,
}: {
  curves: Curve[];
  title: string;
  axis: TimeAxis;
  extra: ComponentChildren;
}) {
  // The curves are new with each answer.
  const shown = useMemo(() => curves.slice(0, MOST_LINES).map(ascending), [curves]);
  const data = useMemo(
    (): uPlot.AlignedData =>
      shown.length === 1
        ? [shown[0]?.steps ?? [], shown[0]?.values ?? []]
        : uPlot.join(shown.map(({ steps, values }) => [steps, values] as uPlot.AlignedData)),
    [shown],
  );
  // Colours follow the theme.
  const colors = useMemo(palette, [time.theme]);
  const more = curves.length - shown.length;
  return (
    <Lines
      axis={time}
      title={more ? `${title} (${shown.length} of ${curves.length} curves)` : title}
      data={data}
      series={shown.map(({ name }, i) => ({ label: name, color: colors.series[i] ?? colors.muted }))}
      height={72}
      labels={false}
      extra={extra}
    />
  );
}

interface CurvesProps {
  run: Run;
  steps: readonly number[];
  groups: ReadonlySet<CurveGroup>;
  toggle: (group: CurveGroup) => void;
  axis: TimeAxis;
}

/** The user's own curves, a chart for each group that is switched on. */
export function Curves({ run, steps, groups, toggle, axis: time }: CurvesProps) {
  const { curves } = run;
  const present = useMemo(
    () =>
      GROUPS.map((g) => ({ ...g, curves: curves.filter(({ group }) => group === g.group) })).filter(
        (g) => g.curves.length,
      ),
    [curves],
  );
  const on = present.filter(({ group }) => groups.has(group));
  const switches = (
    <fieldset class="switches">
      <legend class="hidden">Curves</legend>
      {present.map(({ group, title }) => (
        <label key={group}>
          <input type="checkbox" checked={groups.has(group)} onChange={() => toggle(group)} />
          {title}
        </label>
      ))}
    </fieldset>
  );
  return (
    <>
      {!on.length && switches}
      {on.map(({ group, title, curves: some }, i) => (
        <CurveChart key={group} curves={some} title={title} axis={time} extra={i === 0 ? switches : null} />
      ))}
      {groups.has("rate") && <p class="note rate">{rateInWords(curves, steps, run.summary.alpha ?? [])}</p>}
    </>
  );
}

/** More points than this cannot be told apart in a small line. */
const MOST_POINTS = 120;

/** A rule's score over the steps, small. */
export function Sparkline({ rule, steps }: { rule: Rule; steps: readonly number[] }) {
  const points = useMemo(() => linePoints(steps, rule.score, MOST_POINTS), [steps, rule.score]);
  return (
    <svg
      class="spark"
      viewBox="0 0 1 1"
      preserveAspectRatio="none"
      role="img"
      aria-label={`Score of ${rule.label} over the steps`}
    >
      <polyline points={points} />
    </svg>
  );
}
