/** The spectrum of one layer at one step. */

import { useMemo, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import type { Cell, Layer, Value } from "../data/contract";
import type { CellState } from "../data/cells";
import { anyValue, count, NONE, number, place, plural, powerOfTen, withInterval } from "../logic/format";
import { numeric, readout, type Shapes, shapesOf, type View } from "../logic/spectrum";
import { nearest } from "../logic/steps";
import { decades, exponentTicks } from "../logic/ticks";
import { axis, clipped, type Palette, palette, trace, usePlot, verticalLine } from "./plot";

const DASHES = { edge: [], xmin: [6, 3], shuffled: [2, 3], max: [8, 3, 2, 3] } as const;

function markerColor(kind: keyof typeof DASHES, colors: Palette): string {
  return { edge: colors.text, xmin: colors.fit, shuffled: colors.control, max: colors.muted }[kind];
}

function drawShapes(u: uPlot, shapes: Shapes, colors: Palette): void {
  const bottom = u.bbox.top + u.bbox.height;
  const r = devicePixelRatio;
  const stroke = (color: string, width: number, points: Parameters<typeof trace>[1], dash: number[] = []) =>
    clipped(u, (context) => {
      if (!points.length) return;
      context.strokeStyle = color;
      context.lineWidth = width * r;
      context.lineJoin = "round";
      context.setLineDash(dash.map((d) => d * r));
      context.beginPath();
      trace(u, points);
      context.stroke();
    });
  clipped(u, (context) => {
    for (const { low, high, count: n, above } of shapes.bars) {
      if (n <= 0) continue;
      const [x0, x1] = [u.valToPos(low, "x", true), u.valToPos(high, "x", true)];
      const y = u.valToPos(n, "y", true);
      context.fillStyle = above ? colors.above : colors.bar;
      context.fillRect(
        Math.round(x0),
        y,
        Math.max(1, Math.round(x1) - Math.round(x0) - (x1 - x0 > 4 ? 1 : 0)),
        bottom - y,
      );
    }
  });
  stroke(colors.control, 1.5, shapes.control);
  if (!shapes.bars.length) stroke(colors.bar, 2, shapes.spectrum);
  stroke(colors.baseline, 2, shapes.baseline, [5, 3]);
  const { band } = shapes;
  if (band) {
    clipped(u, (context) => {
      context.fillStyle = `${colors.fit}30`;
      context.beginPath();
      trace(u, band[0]);
      trace(u, [...band[1]].reverse(), false);
      context.closePath();
      context.fill();
    });
  }
  stroke(colors.fit, 2, shapes.fit);
  for (const { at, kind } of shapes.markers) verticalLine(u, at, markerColor(kind, colors), [...DASHES[kind]], 1.4);
}

interface ChartProps {
  readonly cell: Cell;
  readonly baseline: Cell | null;
  readonly view: View;
  readonly theme: string;
  readonly label: string;
}

function SpectrumChart({ cell, baseline, view, theme, label }: ChartProps) {
  const shapes = useMemo(() => shapesOf(cell, baseline, view), [cell, baseline, view]);
  const now = useRef({ shapes, cell });
  now.current = { shapes, cell };
  const words = useRef<HTMLSpanElement>(null);
  const data = useMemo((): uPlot.AlignedData => {
    const [low, high] = shapes?.x ?? [0, 1];
    const xs = Array.from({ length: 129 }, (_, i) => low + ((high - low) * i) / 128);
    return [xs, xs.map(() => null)];
  }, [shapes]);
  const { box } = usePlot({
    data,
    height: 236,
    structure: [theme],
    drawing: [shapes],
    build: () => {
      const colors = palette();
      return {
        padding: [8, 10, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: {
          x: { time: false, range: () => [...(now.current.shapes?.x ?? [0, 1])] as [number, number] },
          y: { distr: 3, log: 10, range: () => [0.7, (now.current.shapes?.top ?? 10) * 1.6] },
        },
        axes: [
          axis(colors, {
            size: 24,
            splits: (_u, _i, low, high) => exponentTicks(low, high),
            values: (_u, splits) => splits.map((v) => (Number.isInteger(v) ? powerOfTen(v) : number(10 ** v, 2))),
          }),
          axis(colors, {
            size: 44,
            splits: (_u, _i, low, high) => decades(low, high),
            values: (_u, splits) => splits.map((v) => count(v)),
          }),
        ],
        series: [{}, { points: { show: false } }],
        hooks: {
          draw: [(u) => now.current.shapes && drawShapes(u, now.current.shapes, colors)],
          setCursor: [
            (u) => {
              const { left } = u.cursor;
              if (words.current) {
                words.current.textContent =
                  left === undefined || left < 0 ? "" : readout(now.current.cell, u.posToVal(left, "x"));
              }
            },
          ],
        },
      };
    },
  });
  // Colours follow the theme.
  const colors = useMemo(palette, [theme]);
  return (
    <figure class="chart">
      <div ref={box} class="plot" role="img" aria-label={label} />
      <figcaption class="spectrum-keys">
        <span class="axis-name">
          log₁₀ λ · {view === "counts" ? "eigenvalues per bin" : "eigenvalues ≥ λ"} <span class="readout" ref={words} />
        </span>
        <span class="keys">
          <span class="key">
            <i class="block" style={{ background: colors.bar }} />
            spectrum
          </span>
          {view === "counts" && (
            <span class="key">
              <i class="block" style={{ background: colors.above }} />
              above the edge
            </span>
          )}
          {shapes?.control.length ? (
            <span class="key">
              <i style={{ borderColor: colors.control }} />
              shuffled (control)
            </span>
          ) : null}
          {shapes?.fit.length ? (
            <span class="key">
              <i style={{ borderColor: colors.fit }} />
              fitted law, 95 %
            </span>
          ) : null}
          {shapes?.baseline.length ? (
            <span class="key">
              <i class="dash" style={{ borderColor: colors.baseline }} />
              baseline
            </span>
          ) : null}
          {shapes?.markers.map(({ kind, label: text }) => (
            <span class="key" key={kind}>
              <MarkerKey kind={kind} color={markerColor(kind, colors)} />
              {text}
            </span>
          ))}
        </span>
      </figcaption>
    </figure>
  );
}

function MarkerKey({ kind, color }: { kind: keyof typeof DASHES; color: string }) {
  return (
    <svg width="6" height="14" aria-hidden="true">
      <line x1="3" y1="0" x2="3" y2="14" stroke={color} stroke-width="1.6" stroke-dasharray={DASHES[kind].join(" ")} />
    </svg>
  );
}

export interface Baseline {
  readonly cell: Cell;
  readonly title: string;
}

interface PanelProps {
  readonly layer: Layer;
  readonly state: CellState;
  readonly waiting: boolean;
  readonly theme: string;
  readonly baseline: Baseline | null;
  readonly pin: (() => void) | null;
  readonly unpin: () => void;
  /** Reports with spectra, the chosen one among them, and the steps of all reports. */
  readonly reports: readonly number[];
  readonly report: number;
  readonly steps: readonly number[];
  readonly single: boolean;
  readonly follows: boolean;
  readonly note: string;
  readonly goTo: (report: number) => void;
  readonly follow: () => void;
  readonly next: (by: number) => void;
  readonly rank: string;
}

export function SpectrumPanel(props: PanelProps) {
  const { layer, state, theme, baseline, reports, report, steps } = props;
  const [view, setView] = useState<View>("counts");
  const { cell } = state;
  const position = Math.max(0, reports.indexOf(report));
  const step = (index: number): string => count(steps[reports[index] ?? -1]);
  const reportSteps = useMemo(() => reports.map((each) => steps[each] ?? 0), [reports, steps]);
  return (
    <section class="panel spectrum" aria-labelledby="spectrum-title" data-keys="panel">
      <header class="panel-head">
        <h2 id="spectrum-title" title={layer.shown}>
          <span class="quiet">Spectrum of</span> <bdi>{layer.shown}</bdi>
        </h2>
        <span class="quiet">
          {layer.kind} {layer.shape}
        </span>
      </header>
      {!props.single && (
        <div class="steps">
          <button
            type="button"
            onClick={() => props.goTo(reports[position - 1] ?? report)}
            disabled={position <= 0}
            aria-label="Previous step"
            title="Previous step (←)"
          >
            ←
          </button>
          <input
            type="range"
            min={0}
            max={Math.max(0, reports.length - 1)}
            value={position}
            aria-label="Step"
            aria-valuetext={`step ${step(position)}`}
            onInput={(event) => props.goTo(reports[Number(event.currentTarget.value)] ?? report)}
          />
          <button
            type="button"
            onClick={() => props.goTo(reports[position + 1] ?? report)}
            disabled={position >= reports.length - 1}
            aria-label="Next step"
            title="Next step (→)"
          >
            →
          </button>
          <StepField
            step={step(position)}
            goTo={(value) => props.goTo(reports[nearest(reportSteps, value)] ?? report)}
          />
          <button
            type="button"
            class="small"
            aria-pressed={props.follows}
            onClick={props.follow}
            title="Always show the latest step"
          >
            latest
          </button>
        </div>
      )}
      <div class="toolbar">
        <fieldset class="choice">
          <legend class="hidden">View</legend>
          <button type="button" aria-pressed={view === "counts"} onClick={() => setView("counts")}>
            counts
          </button>
          <button
            type="button"
            aria-pressed={view === "tail"}
            onClick={() => setView("tail")}
            title="Number of eigenvalues ≥ λ, both axes logarithmic"
          >
            cumulative
          </button>
        </fieldset>
        <span class="spacer" />
        <button
          type="button"
          class="small"
          onClick={() => props.next(-1)}
          aria-label="Worse layer"
          title="The layer before in the order of trouble (p)"
        >
          ◂
        </button>
        <span class="quiet rank">{props.rank}</span>
        <button
          type="button"
          class="small"
          onClick={() => props.next(1)}
          aria-label="Next worst layer"
          title="The next layer in the order of trouble (n)"
        >
          ▸
        </button>
        <button
          type="button"
          class="small"
          disabled={!props.pin}
          onClick={() => props.pin?.()}
          title="Draw this spectrum over what is shown next (b)"
        >
          pin as baseline
        </button>
      </div>
      {baseline && (
        <p class="pinned">
          <span>
            Baseline: <bdi>{baseline.title}</bdi>
          </span>
          <button type="button" class="small" onClick={props.unpin}>
            remove
          </button>
        </p>
      )}
      {props.note && <p class="note">{props.note}</p>}
      {state.error && <p class="note">{state.error}</p>}
      {!cell && !state.error && (
        <p class="note">{props.waiting ? "Loading the spectrum …" : "Choose a cell of the map."}</p>
      )}
      {cell && (
        <>
          {cell.histogram ? (
            <SpectrumChart
              cell={cell}
              baseline={baseline?.cell ?? null}
              view={view}
              theme={theme}
              label={`Spectrum of ${layer.shown}: ${cell.words}. The values are below.`}
            />
          ) : (
            <p class="note">
              No spectrum:{" "}
              {anyValue(cell.values.reason) === NONE
                ? layer.note || "there is none for this layer at this step"
                : anyValue(cell.values.reason)}
              .
            </p>
          )}
          <Judgement cell={cell} />
          <AllValues values={cell.values} />
        </>
      )}
    </section>
  );
}

/** The step that is shown. Another one can be typed; the nearest one with a spectrum is shown then. */
function StepField({ step, goTo }: { step: string; goTo: (step: number) => void }) {
  const [typed, setTyped] = useState<string | null>(null);
  return (
    <label class="step">
      step{" "}
      <input
        inputMode="numeric"
        size={Math.max(4, step.length)}
        value={typed ?? step}
        title="Type a step and press Enter"
        onFocus={(event) => event.currentTarget.select()}
        onInput={(event) => setTyped(event.currentTarget.value)}
        onBlur={() => setTyped(null)}
        onKeyDown={(event) => {
          const value = Number((typed ?? "").replaceAll(",", "") || Number.NaN);
          if (event.key === "Enter" && Number.isFinite(value)) goTo(value);
          if (event.key === "Enter" || event.key === "Escape") event.currentTarget.blur();
        }}
      />
    </label>
  );
}

function Judgement({ cell }: { cell: Cell }) {
  const { values } = cell;
  const alpha = numeric(values.alpha);
  const traps = numeric(values.num_traps);
  const places = cell.trap_places ?? [];
  const kind = typeof values.trap_kind === "string" ? values.trap_kind : "";
  return (
    <div class="judgement">
      <p class="words">{cell.words}</p>
      <dl class="facts">
        <Fact name="alpha" value={withInterval(alpha, numeric(values.alpha_low), numeric(values.alpha_high))} />
        <Fact name="shuffled alpha" value={number(numeric(values.rand_alpha))} />
        <Fact
          name="in the tail"
          value={`${anyValue(values.num_pl_spikes)}${values.num_evals ? ` of ${anyValue(values.num_evals)}` : ""}`}
        />
        <Fact name="D" value={number(numeric(values.D))} />
        <Fact name="above the edge" value={anyValue(values.num_spikes)} />
        <Fact
          name="traps"
          value={traps > 0 ? `${count(traps)}${kind ? ` (${kind})` : ""}` : anyValue(values.num_traps)}
        />
      </dl>
      {places.length > 0 && (
        <p class="places">
          {plural(places.length, "place")} of traps:{" "}
          {places
            .slice(0, 6)
            .map(([index, value]) => place(index, value, kind))
            .join("; ")}
          {places.length > 6 ? " …" : ""}
        </p>
      )}
    </div>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function AllValues({ values }: { values: Record<string, Value> }) {
  const [open, setOpen] = useState(false);
  const known = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return (
    <details class="all-values" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>All values ({known.length})</summary>
      <div class="scroll" tabIndex={0} role="group" aria-label="All values">
        <table>
          <caption class="hidden">All values of this layer at this step</caption>
          <tbody>
            {(open ? known : []).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">
                  <bdi>{name}</bdi>
                </th>
                <td title={String(value)}>
                  <bdi>{anyValue(value)}</bdi>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </details>
  );
}
