/** The whole page: what is chosen, where the data come from, and how the parts share them. */

import type { RefObject } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Column, CurveGroup, Run, Runs, Source } from "../data/contract";
import { type CellPlace, useCell } from "../data/cells";
import { HeldRun } from "../data/held";
import { at } from "../data/merge";
import { SourceError } from "../data/source";
import { columnValue, count, plural } from "../logic/format";
import { formatHash, parseHash } from "../logic/hash";
import { type GroupBy, grouped, rowsOf } from "../logic/groups";
import { nearest, spans } from "../logic/steps";
import { worstOrder } from "../logic/worst";
import { Compare } from "./compare";
import { DepthChart } from "./depth";
import { Findings, Rules } from "./findings";
import { Banners, Header, type Theme } from "./header";
import { Help } from "./help";
import { LayerMap } from "./map";
import { type Baseline, SpectrumPanel } from "./spectrum";
import { INTERVAL, LayerTable, TABLE_COLUMNS } from "./table";
import { AlphaChart, Curves, SHOWN_AT_FIRST, type TimeAxis } from "./time";

const POLL = 2000;
const SLOWEST = 30_000;
/** The list of runs is asked for less often than the run that is shown. */
const RUNS_EVERY = 3;
/** The columns of the table come after this time, when the rest is there: they are needed for scrolling down and printing. */
const SETTLED = 3000;
const MARKS = ["reliable", "num_traps"];

/** The chosen cell; `report` is null while the latest one is followed, `layer` is -1 until the worst one is known. */
interface Selection {
  readonly layer: number;
  readonly report: number | null;
}

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value));

function toggled<T>(set: ReadonlySet<T>, value: T): Set<T> {
  const next = new Set(set);
  if (!next.delete(value)) next.add(value);
  return next;
}

function storedTheme(): Theme {
  try {
    const stored = localStorage.getItem("ww-theme");
    return stored === "light" || stored === "dark" ? stored : "auto";
  } catch {
    return "auto";
  }
}

/** The theme that is chosen, and the one that is seen, which changes when colours have to be read again. */
function useTheme(): [Theme, (theme: Theme) => void, string] {
  const [theme, setTheme] = useState(storedTheme);
  const query = useMemo(() => matchMedia("(prefers-color-scheme: dark)"), []);
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const listen = () => setDark(query.matches);
    query.addEventListener("change", listen);
    return () => query.removeEventListener("change", listen);
  }, [query]);
  const choose = (next: Theme) => {
    setTheme(next);
    try {
      localStorage.setItem("ww-theme", next);
    } catch {
      // A frame without storage: the choice holds as long as the page.
    }
  };
  const seen = theme === "auto" ? (dark ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = seen;
  return [theme, choose, seen];
}

interface Live {
  readonly runs: Runs | null;
  readonly held: HeldRun | null;
  /** Counts the changes of what is held. */
  readonly version: number;
  readonly offline: string;
  readonly error: string;
}

/** Follows the list of runs and one run, as long as the page is seen. */
function useLive(source: Source, id: string | null): Live {
  const [runs, setRuns] = useState<Runs | null>(null);
  const known = useRef<Runs | null>(null);
  const [version, setVersion] = useState(0);
  const [offline, setOffline] = useState("");
  const [error, setError] = useState("");
  const changed = useCallback(() => setVersion((v) => v + 1), []);
  const held = useMemo(() => (id === null ? null : new HeldRun(source, id, changed)), [source, id]);
  useEffect(() => {
    let stopped = false;
    let timer = 0;
    let wait = POLL;
    let round = 1;
    const ask = async () => {
      performance.mark("ww-poll");
      try {
        const wantsRuns = !held || !known.current || round % RUNS_EVERY === 0;
        const [list] = await Promise.all([wantsRuns ? source.runs() : null, held?.refresh()]);
        if (stopped) return;
        if (list) {
          known.current = list;
          setRuns(list);
        }
        round += 1;
        wait = known.current?.live ? POLL : 0;
        if (!stopped) {
          setOffline("");
          setError("");
        }
      } catch (problem) {
        wait = Math.min(SLOWEST, 2 * Math.max(POLL, wait));
        if (stopped) return;
        if (problem instanceof SourceError && problem.status > 0) setError(problem.message);
        else setOffline(`${(problem as Error).message} The page keeps asking.`);
      }
      if (!stopped && wait > 0) timer = window.setTimeout(next, wait);
    };
    const next = () => {
      if (document.visibilityState === "visible") void ask();
      else document.addEventListener("visibilitychange", next, { once: true });
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", next);
    };
  }, [source, held]);
  return { runs, held, version, offline, error };
}

/** The first run that has something to show, if the address names none. */
function firstRun(runs: Runs): string | null {
  return (runs.runs.find(({ reports }) => reports > 0) ?? runs.runs[0])?.id ?? null;
}

const NO_COLUMN: Column = {
  name: "alpha",
  label: "alpha",
  text: "",
  kind: "number",
  words: [],
  scale: "alpha",
  centre: null,
};

/** Steps as numbers that grow; a finished model's report has none. */
function numberedSteps(run: Run): number[] {
  return run.steps.map((step, i) => step ?? i);
}

export function App({ source }: { source: Source }) {
  const [theme, setTheme, seen] = useTheme();
  const link = useRef(parseHash(location.hash));
  const [id, setId] = useState<string | null>(link.current.run);
  const [visit, setVisit] = useState(0);
  const { runs, held, version, offline, error } = useLive(source, id);
  const run = held?.run ?? null;
  useEffect(() => {
    if (runs && (id === null || !runs.runs.some((each) => each.id === id))) setId(firstRun(runs));
  }, [runs, id]);
  const help = useRef<HTMLDialogElement>(null);
  const main = useRef<HTMLElement>(null);
  const info = runs?.runs.find((each) => each.id === id) ?? null;
  // A pinned spectrum stays when another run is chosen, so that two runs can be laid over each other.
  const [pinned, setPinned] = useState<Baseline | null>(null);
  const [columnName, setColumnName] = useState(link.current.column ?? "alpha");
  useEffect(() => {
    document.title = info ? `${info.name.slice(0, 80)} – spectra` : "Spectra of layers";
  }, [info?.name]);
  useEffect(() => {
    const listen = () => {
      link.current = parseHash(location.hash);
      if (link.current.run !== null) setId(link.current.run);
      if (link.current.column !== null) setColumnName(link.current.column);
      setVisit((v) => v + 1);
    };
    addEventListener("hashchange", listen);
    return () => removeEventListener("hashchange", listen);
  }, []);
  const choose = (next: string) => {
    link.current = { run: next, column: columnName, layer: null, step: null };
    setId(next);
  };
  if (!runs) {
    return (
      <main class="start">
        <Banners runs={null} run={null} offline={offline} error={error} />
        {!offline && !error && <p class="note">Loading …</p>}
      </main>
    );
  }
  return (
    <>
      <Header
        {...{ runs, run, info, choose, theme, setTheme }}
        help={() => help.current?.showModal()}
        skip={() => main.current?.focus()}
      />
      <main id="main" tabIndex={-1} ref={main}>
        <Banners runs={runs} run={run} offline={offline} error={error} />
        {run && held && run.steps.length > 0 && (
          <RunView
            key={`${held.id} ${visit}`}
            {...{ source, runs, run, held, version, columnName, setColumnName, pinned, setPinned, help }}
            theme={seen}
            link={link}
          />
        )}
        {run && run.steps.length === 0 && !run.problem && (
          <p class="note big">No results yet. The page shows them when the first report of this run is there.</p>
        )}
        {!run && !error && (
          <p class="note big">
            {runs.runs.length ? "Loading the run …" : "There are no runs here yet. The page shows them as they come."}
          </p>
        )}
      </main>
      <Help dialog={help} />
    </>
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
  link: { current: ReturnType<typeof parseHash> };
  help: RefObject<HTMLDialogElement | null>;
}

/** The chosen cell at first: that of the address, else the worst layer at the latest step. */
function firstSelection(run: Run, link: ReturnType<typeof parseHash>, steps: readonly number[]): Selection {
  const named = link.layer === null ? -1 : run.layers.findIndex(({ name }) => name === link.layer);
  const worst = run.findings.find(({ until, layers }) => until === null && layers.length)?.layers[0];
  return { layer: named >= 0 ? named : (worst ?? -1), report: link.step === null ? null : nearest(steps, link.step) };
}

function useTimeAxis(
  run: Run,
  steps: readonly number[],
  theme: string,
  selected: number | null,
): TimeAxis & { zoomed: boolean } {
  const [zoom, setZoom] = useState<readonly [number, number] | null>(null);
  const [narrow, setNarrow] = useState(innerWidth < 640);
  useEffect(() => {
    const listen = () => setNarrow(innerWidth < 640);
    addEventListener("resize", listen);
    return () => removeEventListener("resize", listen);
  }, []);
  const whole = useMemo((): readonly [number, number] => {
    const { left, right } = spans(steps);
    const ends = run.curves.map((curve) => curve.steps[curve.steps.length - 1] ?? 0);
    return [left[0] ?? 0, Math.max(right[right.length - 1] ?? 1, ...ends)];
  }, [run, steps]);
  const range = zoom ?? whole;
  return useMemo(
    () => ({ range, theme, gutter: narrow ? 96 : 190, right: 16, selected, zoom: setZoom, zoomed: zoom !== null }),
    [range, theme, narrow, selected, zoom],
  );
}

function RunView(props: RunProps) {
  const { source, runs, run, held, version, columnName, setColumnName, pinned, setPinned, theme, link, help } = props;
  const steps = useMemo(() => numberedSteps(run), [run.steps]);
  const latest = steps.length - 1;
  const single = steps.length === 1;
  const [selection, setSelection] = useState(() => firstSelection(run, link.current, steps));
  const [by, setBy] = useState<GroupBy>("block");
  const [search, setSearch] = useState("");
  const [closed, setClosed] = useState<ReadonlySet<string>>(new Set());
  const [tall, setTall] = useState(false);
  const [curveGroups, setCurveGroups] = useState<ReadonlySet<CurveGroup>>(new Set(SHOWN_AT_FIRST));
  const [other, setOther] = useState<{ place: CellPlace; title: string } | null>(null);
  const [tableSeen, setTableSeen] = useState(false);
  const [settled, setSettled] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(true), SETTLED);
    const print = () => setTableSeen(true);
    addEventListener("beforeprint", print);
    return () => {
      clearTimeout(timer);
      removeEventListener("beforeprint", print);
    };
  }, []);

  const column = run.columns.find(({ name }) => name === columnName) ?? run.columns[0] ?? NO_COLUMN;
  const wanted = [column.name, ...MARKS, ...(settled || tableSeen || single ? [...TABLE_COLUMNS, ...INTERVAL] : [])];
  // The names stand for the array.
  useEffect(() => {
    for (const name of wanted) held.want(name);
  }, [held, wanted.join("\n"), run.columns.length]);
  const [grid, reliable, traps] = [column.name, ...MARKS].map((name) => held.grids.get(name));

  const layer = clamp(selection.layer, 0, Math.max(0, run.layers.length - 1));
  const report = selection.report === null ? latest : clamp(selection.report, 0, latest);
  const select = useCallback((nextLayer: number, nextReport: number | null) => {
    performance.mark("ww-select");
    setSelection({ layer: nextLayer, report: nextReport });
  }, []);
  const cellReports = useMemo(
    () => (run.cells === "all" ? steps.map((_, i) => i) : run.cells.filter((i) => i <= latest)),
    [run.cells, steps, latest],
  );
  const cellReport = cellReports[nearest(cellReports, report)] ?? report;
  const known = selection.layer >= 0;
  const state = useCell(source, known ? { run: run.id, version: run.version, layer, report: cellReport } : null);
  const otherState = useCell(source, other?.place ?? null);
  const baseline = pinned ?? (other && otherState.cell ? { cell: otherState.cell, title: other.title } : null);

  const groups = useMemo(() => grouped(run.layers, by, search), [layersKey(run), by, search]);
  const time = useTimeAxis(run, steps, theme, single ? null : (steps[report] ?? null));
  const cellSpans = useMemo(() => spans(steps), [steps]);
  const chosen = useMemo(() => (known ? { layer, report } : null), [known, layer, report]);
  const name = known ? (run.layers[layer]?.name ?? null) : null;
  useEffect(() => {
    const step = selection.report === null ? null : (steps[report] ?? null);
    const hash = formatHash({ run: run.id, column: column.name, layer: name, step });
    if (location.hash !== hash) history.replaceState(null, "", hash);
  }, [run.id, column.name, name, selection.report, report]);

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
    if (!known && grid && worst !== undefined) setSelection((old) => ({ ...old, layer: worst }));
  }, [known, grid, worst]);
  const next = (by: number) => {
    const to = order[rank < 0 ? 0 : clamp(rank + by, 0, order.length - 1)];
    if (to !== undefined) select(to, selection.report);
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
  const follow = () => select(layer, selection.report === null ? latest : null);

  useKeys((event, inMap) => {
    const rows = () => rowsOf(groups, new Set()).map((row) => row.layers[0] as number);
    const vertical = (by: number) => {
      const all = rows();
      const to = all[clamp(all.indexOf(layer) + by, 0, all.length - 1)];
      if (to !== undefined) select(to, selection.report);
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
  const selectLayer = useCallback((l: number) => setSelection((old) => ({ layer: l, report: old.report })), []);
  const overlaid = useRef("");
  const overlay = useCallback((place: CellPlace | null, title: string) => {
    // What was chosen last is drawn: a new comparison takes the place of a pinned spectrum.
    if (place && title !== overlaid.current) setPinned(null);
    overlaid.current = title;
    setOther(place && { place, title });
  }, []);
  const shown = useMemo(() => groups.flatMap((group) => group.layers), [groups]);
  const stamp = `${[...held.grids].map(([n, g]) => `${n} ${g.rows}`).join()}`;
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
    [layersKey(run), run.columns.length, stamp, report, layer],
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
    [selection, column.name, grid === undefined],
  );
  const tableRef = useSeen(() => setTableSeen(true));
  useEffect(() => {
    performance.mark("ww-drawn", { detail: { version, latest, ready: grid !== undefined } });
  }, [version]);

  return (
    <div class={single ? "grid single" : "grid"}>
      <Findings run={run} show={showFinding} />
      {!single && <Rules run={run} steps={steps} theme={theme} />}
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
              {time.zoomed && (
                <button type="button" class="small" onClick={() => time.zoom(null)}>
                  all steps
                </button>
              )}
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
              curves={run.curves}
              groups={curveGroups}
              axis={time}
              toggle={(group) => setCurveGroups(toggled(curveGroups, group))}
            />
            <AlphaChart run={run} steps={steps} axis={time} />
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
          follows={selection.report === null}
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
        {tableSeen || single ? table : <p class="note">Loading …</p>}
      </section>
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
      <div class="hidden" role="status" aria-live="polite">
        {announced}
      </div>
    </div>
  );
}

/** Layers are sent with each answer; they are the same as long as the version is. */
const layersKey = (run: Run): string => `${run.id}\n${run.version}\n${run.layers.length}`;

function spectrumNote(shown: number, asked: number, steps: readonly number[], copied: number | null): string {
  const step = steps[shown];
  if (shown !== asked)
    return `There is no spectrum of step ${count(steps[asked])}. This is the nearest one, of step ${count(step)}.`;
  if (copied !== null && step !== undefined && copied !== step)
    return `The weights were copied at step ${count(copied)}: layers take turns.`;
  return "";
}

/** Calls a function when an element is nearly in view for the first time. */
function useSeen(seen: () => void) {
  const element = useRef<HTMLElement>(null);
  useEffect(() => {
    if (!element.current) return;
    const observer = new IntersectionObserver(
      (entries) => {
        if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
        observer.disconnect();
        seen();
      },
      { rootMargin: "100px" },
    );
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return element;
}

/** Keys of the page, apart from those that a field, a list or a scrolling table uses itself. */
function useKeys(handle: (event: KeyboardEvent, inMap: boolean) => boolean): void {
  const latest = useRef(handle);
  latest.current = handle;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog, .popover"))
        return;
      const inMap = target.closest("[data-keys=map]") !== null;
      if (event.key.startsWith("Arrow") && target.closest(".scroll")) return;
      if (latest.current(event, inMap)) event.preventDefault();
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);
}
