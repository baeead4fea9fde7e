/** One run: what is chosen in it, and the parts of the page that show it. */

import type { RefObject } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type CellPlace, useCell } from "../data/cells";
import type { Column, Run, Runs, Source } from "../data/contract";
import type { HeldRun } from "../data/held";
import { at } from "../data/merge";
import { columnValue, count, plural } from "../logic/format";
import { type GroupBy, grouped, rowsOf } from "../logic/groups";
import { formatHash, type Link } from "../logic/hash";
import { nearest, type Spans, spans, steadyRange } from "../logic/steps";
import { worstOrder } from "../logic/worst";
import { Changes } from "./changes";
import { numberedSteps, useChoice } from "./choice";
import { Compare } from "./compare";
import { DepthChart } from "./depth";
import { Findings, Rules } from "./findings";
import { useKeys } from "./keys";
import { LayerMap } from "./map";
import { type Baseline, SpectrumPanel } from "./spectrum";
import { INTERVAL, LayerTable, TABLE_COLUMNS } from "./table";
import { AlphaChart, Curves, shownAtFirst, type TimeAxis } from "./time";

const MARKS = ["reliable", "num_traps"];

const NO_COLUMN: Column = {
  name: "alpha",
  label: "alpha",
  text: "",
  kind: "number",
  words: [],
  scale: "alpha",
  centre: null,
};

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

function toggled<T>(set: ReadonlySet<T>, value: T): Set<T> {
  const next = new Set(set);
  if (!next.delete(value)) next.add(value);
  return next;
}

/** Room for the names of layers. */
const gutterOf = (): number => (innerWidth < 640 ? 96 : innerWidth < 1200 ? 140 : 190);

function useTimeAxis(
  run: Run,
  { left, right }: Spans,
  theme: string,
  selected: number | null,
): TimeAxis & { zoomed: boolean } {
  const [zoom, setZoom] = useState<readonly [number, number] | null>(null);
  const [gutter, setGutter] = useState(gutterOf);
  useEffect(() => {
    const listen = () => setGutter(gutterOf);
    addEventListener("resize", listen);
    return () => removeEventListener("resize", listen);
  }, []);
  const whole = useMemo((): readonly [number, number] => {
    const ends = run.curves.map((curve) => curve.steps[curve.steps.length - 1] ?? 0);
    return steadyRange(left[0] ?? 0, Math.max(right[right.length - 1] ?? 1, ...ends));
  }, [run.curves, left, right]);
  const [from, to] = zoom ?? whole;
  const range = useMemo((): readonly [number, number] => [from, to], [from, to]);
  return useMemo(
    () => ({ range, theme, gutter, right: 16, selected, zoom: setZoom, zoomed: zoom !== null }),
    [range, theme, gutter, selected, zoom],
  );
}

interface RunProps {
  source: Source;
  runs: Runs;
  run: Run;
  held: HeldRun;
  version: number;
  columnName: string;
  setColumnName: (name: string) => void;
  pinned: Baseline | null;
  setPinned: (baseline: Baseline | null) => void;
  theme: string;
  link: { current: Link };
  help: RefObject<HTMLDialogElement | null>;
}

export function RunView(props: RunProps) {
  const { source, runs, run, held, version, columnName, setColumnName, pinned, setPinned, theme, link, help } = props;
  const steps = useMemo(() => numberedSteps(run), [run.steps]);
  const latest = steps.length - 1;
  const single = steps.length === 1;
  const { layer: chosenLayer, report, follows, select, selectLayer } = useChoice(run, steps, link.current);
  const [by, setBy] = useState<GroupBy>("block");
  const [search, setSearch] = useState("");
  const [closed, setClosed] = useState<ReadonlySet<string>>(new Set());
  const [tall, setTall] = useState(false);
  const [curveGroups, setCurveGroups] = useState(() => shownAtFirst(run.curves));
  const [other, setOther] = useState<{ place: CellPlace; title: string } | null>(null);
  const [tableRef, tableInView] = useInView();
  // The columns of the table are followed while it is seen; where nothing grows, they are there once and for all.
  const wantsTable = single || !runs.live || tableInView;

  const column = run.columns.find(({ name }) => name === columnName) ?? run.columns[0] ?? NO_COLUMN;
  const wanted = [column.name, ...MARKS, ...(wantsTable ? [...TABLE_COLUMNS, ...INTERVAL] : [])];
  // The names stand for the array.
  useEffect(() => held.follow(wanted), [held, wanted.join("\n"), run.columns.length]);
  const [grid, reliable, traps] = [column.name, ...MARKS].map((name) => held.grids.get(name));

  const known = chosenLayer >= 0;
  const layer = Math.max(0, chosenLayer);
  const cellReports = useMemo(
    () => (run.cells === "all" ? steps.map((_, i) => i) : run.cells.filter((i) => i <= latest)),
    [run.cells, steps, latest],
  );
  const cellReport = cellReports[nearest(cellReports, report)] ?? report;
  const state = useCell(source, known ? { run: run.id, version: run.version, layer, report: cellReport } : null);
  const otherState = useCell(source, other?.place ?? null);
  const baseline = pinned ?? (other && otherState.cell ? { cell: otherState.cell, title: other.title } : null);

  const groups = useMemo(() => grouped(run.layers, by, search), [run.layers, by, search]);
  const cellSpans = useMemo(() => spans(steps), [steps]);
  const time = useTimeAxis(run, cellSpans, theme, single ? null : (steps[report] ?? null));
  const chosen = useMemo(() => (known ? { layer, report } : null), [known, layer, report]);
  const name = known ? (run.layers[layer]?.name ?? null) : null;
  useEffect(() => {
    const step = follows ? null : (steps[report] ?? null);
    const hash = formatHash({ run: run.id, column: column.name, layer: name, step });
    if (location.hash !== hash) history.replaceState(null, "", hash);
  }, [run.id, column.name, name, follows, report]);

  const order = useMemo(
    () =>
      worstOrder(
        run.findings,
        column,
        groups.flatMap((group) => group.layers),
        (l) => at(grid, report, l),
        (l) => column.scale !== "alpha" || at(reliable, report, l) === 1,
      ),
    [run.findings, column, groups, grid, reliable, report],
  );
  const rank = order.indexOf(layer);
  const worst = order[0];
  useEffect(() => {
    if (!known && grid && worst !== undefined) selectLayer(worst);
  }, [known, grid, worst]);
  const next = (by: number) => {
    const to = order[rank < 0 ? 0 : clamp(rank + by, 0, order.length - 1)];
    if (to !== undefined) selectLayer(to);
  };
  const goTo = (to: number) => select(layer, to);
  const regroup = (next: GroupBy) => {
    setBy(next);
    setClosed(new Set());
  };
  const pin = () =>
    state.cell &&
    setPinned({
      cell: state.cell,
      title: `${run.layers[layer]?.shown}, step ${count(steps[cellReport])}, ${run.name}`,
    });
  const follow = () => select(layer, follows ? latest : null);

  useKeys((event, inMap) => {
    const rows = () => rowsOf(groups, new Set()).map((row) => row.layers[0] as number);
    const vertical = (by: number) => {
      const all = rows();
      const to = all[clamp(all.indexOf(layer) + by, 0, all.length - 1)];
      if (to !== undefined) selectLayer(to);
    };
    const horizontal = (by: number) => {
      const position = nearest(cellReports, report);
      goTo(cellReports[clamp(position + by, 0, cellReports.length - 1)] ?? report);
    };
    switch (event.key) {
      case "ArrowLeft":
        horizontal(event.shiftKey ? -10 : -1);
        break;
      case "ArrowRight":
        horizontal(event.shiftKey ? 10 : 1);
        break;
      case "n":
        next(1);
        break;
      case "p":
        next(-1);
        break;
      case "b":
        if (pinned) setPinned(null);
        else pin();
        break;
      case "l":
        follow();
        break;
      case "/":
        document.getElementById("layer-search")?.focus();
        break;
      case "?":
        help.current?.showModal();
        break;
      default:
        if (!inMap) return false;
        if (event.key === "ArrowUp") vertical(-1);
        else if (event.key === "ArrowDown") vertical(1);
        else if (event.key === "Home") goTo(cellReports[0] ?? 0);
        else if (event.key === "End") goTo(cellReports[cellReports.length - 1] ?? latest);
        else return false;
    }
    return true;
  });

  const showFinding = useCallback(
    (l: number, since: number | null) => select(l, since === null ? null : nearest(steps, since)),
    [steps],
  );
  const overlaid = useRef("");
  const overlay = useCallback((place: CellPlace | null, title: string) => {
    // What was chosen last is drawn: a new comparison takes the place of a pinned spectrum.
    if (place && title !== overlaid.current) setPinned(null);
    overlaid.current = title;
    setOther(place && { place, title });
  }, []);
  const shown = useMemo(() => groups.flatMap((group) => group.layers), [groups]);
  const stamp = `${[...held.grids].map(([n, g]) => `${n} ${g.rows}`).join()}`;
  const tableKnown = wantsTable || (held.grids.get("alpha_low")?.rows ?? 0) > report;
  const table = useMemo(
    () => (
      <LayerTable
        layers={run.layers}
        columns={run.columns}
        grids={held.grids}
        stamp={stamp}
        report={report}
        chosen={layer}
        caption={
          single
            ? `${plural(run.layers.length, "layer")}`
            : `${plural(run.layers.length, "layer")} at step ${count(steps[report])}`
        }
        select={selectLayer}
      />
    ),
    [run.layers, run.columns, stamp, report, layer],
  );
  // Said when something is chosen, not with each new result.
  const announced = useMemo(
    () =>
      [
        run.layers[layer]?.shown ?? "",
        ...(single ? [] : [`step ${count(steps[report])}`]),
        `${column.name} ${columnValue(column, at(grid, report, layer))}`,
        ...(at(reliable, report, layer) === 0 ? ["no reliable tail"] : []),
      ].join(", "),
    [chosenLayer, follows ? null : report, column.name, grid === undefined],
  );
  const drawn = grid !== undefined;
  useEffect(() => {
    if (drawn) performance.mark("ww-map-drawn");
  }, [drawn]);

  return (
    <div class={single ? "grid single" : "grid"} data-updates={version}>
      <Findings run={run} show={showFinding} />
      {!single && <Rules run={run} steps={steps} />}
      {runs.comparison && runs.runs.length > 1 && (
        <Changes
          comparison={runs.comparison}
          chosen={layer}
          setColumn={setColumnName}
          select={selectLayer}
          {...{ source, runs, run, column, grid, overlay }}
        />
      )}
      <section class="panel course" id="map" aria-labelledby="map-title">
        <header class="panel-head">
          <h2 id="map-title">{single ? "Layers by depth" : "Layers over the steps"}</h2>
          {!single && (
            <label class="pick">
              <span class="hidden">Column</span>
              <select
                value={column.name}
                title={column.text}
                onChange={(event) => setColumnName(event.currentTarget.value)}
              >
                {run.columns.map((each) => (
                  <option key={each.name} value={each.name}>
                    {each.label}
                  </option>
                ))}
              </select>
            </label>
          )}
          <input
            id="layer-search"
            type="search"
            placeholder="Search layers  /"
            aria-label="Search layers"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
          />
          {!single && (
            <>
              <fieldset class="choice">
                <legend class="hidden">Groups</legend>
                <button
                  type="button"
                  aria-pressed={by === "block"}
                  onClick={() => regroup("block")}
                  title="One group for each block"
                >
                  by block
                </button>
                <button
                  type="button"
                  aria-pressed={by === "kind"}
                  onClick={() => regroup("kind")}
                  title="One group for layers of the same name in all blocks"
                >
                  by kind
                </button>
              </fieldset>
              <button
                type="button"
                class="small"
                onClick={() =>
                  setClosed(
                    closed.size ? new Set() : new Set(groups.filter((g) => g.layers.length > 1).map((g) => g.name)),
                  )
                }
              >
                {closed.size ? "open all" : "close all"}
              </button>
              <button
                type="button"
                class="small"
                aria-pressed={tall}
                onClick={() => setTall(!tall)}
                title="Rows high enough for the name of each layer"
              >
                names
              </button>
            </>
          )}
        </header>
        {single ? (
          <DepthChart
            layers={run.layers}
            shown={shown}
            grids={held.grids}
            stamp={stamp}
            report={report}
            theme={theme}
            chosen={layer}
            select={selectLayer}
          />
        ) : (
          <>
            {run.curves.length === 0 && (
              <p class="note">
                No loss curves in this run. Log them to the same TensorBoard directory, and they are shown here.
              </p>
            )}
            <Curves
              run={run}
              steps={steps}
              groups={curveGroups}
              axis={time}
              toggle={(group) => setCurveGroups(toggled(curveGroups, group))}
            />
            <AlphaChart
              run={run}
              steps={steps}
              axis={time}
              extra={
                time.zoomed && (
                  <button type="button" class="small" onClick={() => time.zoom(null)}>
                    all steps
                  </button>
                )
              }
            />
            <LayerMap
              axis={time}
              layers={run.layers}
              column={column}
              grid={grid}
              reliable={reliable}
              traps={traps}
              steps={steps}
              spans={cellSpans}
              groups={groups}
              by={by}
              closed={closed}
              tall={tall}
              selection={chosen}
              select={select}
              toggle={(group) => setClosed(toggled(closed, group))}
              error={held.errors.get(column.name) ?? (run.columns.length ? "" : "This run has no values of layers.")}
            />
          </>
        )}
      </section>
      <div class="side">
        <SpectrumPanel
          layer={
            run.layers[layer] ?? { name: "", shown: "no layer", kind: "", role: "", shape: "", block: "", note: "" }
          }
          state={state}
          waiting={!state.error}
          theme={theme}
          baseline={baseline}
          pin={state.cell ? pin : null}
          unpin={() => {
            setPinned(null);
            setOther(null);
          }}
          reports={cellReports}
          report={cellReport}
          steps={steps}
          single={single}
          follows={follows}
          note={spectrumNote(cellReport, report, steps, state.cell?.step ?? null)}
          goTo={goTo}
          follow={follow}
          next={next}
          rank={rank < 0 ? "" : `${rank + 1} of ${order.length}`}
        />
      </div>
      <section class="panel layers" aria-labelledby="layers-title" ref={tableRef}>
        <header class="panel-head">
          <h2 id="layers-title">Layers</h2>
        </header>
        {tableKnown ? table : <p class="note">The table is loaded when it is seen. Scroll to it before printing.</p>}
      </section>
      {!runs.comparison && (
        <Compare
          source={source}
          runs={runs}
          run={run}
          column={column}
          grid={grid}
          report={report}
          chosen={layer}
          select={selectLayer}
          overlay={overlay}
        />
      )}
      <div class="hidden" role="status" aria-live="polite">
        {announced}
      </div>
    </div>
  );
}

function spectrumNote(shown: number, asked: number, steps: readonly number[], copied: number | null): string {
  const step = steps[shown];
  if (shown !== asked)
    return `There is no spectrum of step ${count(steps[asked])}. This is the nearest one, of step ${count(step)}.`;
  if (copied !== null && step !== undefined && copied !== step)
    return `The weights were copied at step ${count(copied)}: layers take turns.`;
  return "";
}

/** Whether an element is in view, or nearly. */
function useInView(): [RefObject<HTMLElement | null>, boolean] {
  const element = useRef<HTMLElement>(null);
  const [inView, setInView] = useState(false);
  useEffect(() => {
    if (!element.current) return;
    const listen = (entries: IntersectionObserverEntry[]) => setInView(entries.at(-1)?.isIntersecting ?? false);
    const observer = new IntersectionObserver(listen, { rootMargin: "100px" });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, inView];
}
