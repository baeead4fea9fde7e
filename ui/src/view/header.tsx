/** The line at the top: which run, whether it is live, and what to know before reading on. */

import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import type { Run, RunInfo, Runs } from "../data/contract";
import { ago, count, plural } from "../logic/format";
import type { Theme } from "./theme";

interface HeaderProps {
  runs: Runs;
  run: Run | null;
  info: RunInfo | null;
  choose: (id: string) => void;
  theme: Theme;
  setTheme: (theme: Theme) => void;
  help: () => void;
  skip: () => void;
}

export function Header({ runs, run, info, choose, theme, setTheme, help, skip }: HeaderProps) {
  const next: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
  return (
    <header class="top">
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          // The address holds the view, so the link must not change it.
          event.preventDefault();
          skip();
        }}
      >
        To the content
      </a>
      <h1 class="hidden">
        Spectra of <bdi>{info?.name ?? "layers"}</bdi>
      </h1>
      <RunChooser runs={runs} info={info} choose={choose} />
      <LiveState runs={runs} run={run} info={info} />
      <span class="spacer" />
      <button
        type="button"
        class="small"
        onClick={() => setTheme(next[theme])}
        title="Light, dark, or as the system has it"
      >
        theme: {theme}
      </button>
      <button type="button" class="small" onClick={help} title="Keys and signs (?)" aria-label="Help: keys and signs">
        ?
      </button>
    </header>
  );
}

const TICK = 5000;

/** Seconds since the epoch, new with each drawing and every five seconds. Only what shows a time uses it. */
function useClock(runs = true): number {
  const [, setTicks] = useState(0);
  useEffect(() => {
    if (!runs) return;
    const tick = () => document.visibilityState === "visible" && setTicks((ticks) => ticks + 1);
    const timer = setInterval(tick, TICK);
    return () => clearInterval(timer);
  }, [runs]);
  return Date.now() / 1000;
}

/** A run is live if its latest result is not older than this, or than three times the time between two results. */
const LIVE_SECONDS = 120;

const dates = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

interface StateProps {
  runs: Runs;
  run: Run | null;
  info: RunInfo | null;
}

function LiveState({ runs, run, info }: StateProps) {
  const now = useClock();
  const last = run?.steps.at(-1) ?? null;
  const time = run?.times.at(-1) ?? info?.updated ?? 0;
  const before = run?.times.at(-2) ?? time;
  const age = now - time;
  const live = runs.live && time > 0 && age < Math.max(LIVE_SECONDS, 3 * (time - before));
  const finished = run !== null && run.steps.length === 1 && last === null;
  const date = useMemo(() => (time ? dates.format(time * 1000) : ""), [time]);
  const step = last === null ? "" : `step ${count(last)}`;
  const words = finished
    ? ["finished model", date]
    : !runs.live
      ? [date ? `file of ${date}` : "file", step]
      : live
        ? ["live", step, ago(age)]
        : [step, time ? `last result ${ago(age)}` : ""];
  return (
    <span class={live && !finished ? "state live" : "state"}>
      <i aria-hidden="true" />
      {words.filter(Boolean).join(", ")}
    </span>
  );
}

interface ChooserProps {
  runs: Runs;
  info: RunInfo | null;
  choose: (id: string) => void;
}

function RunChooser({ runs, info, choose }: ChooserProps) {
  const [open, setOpen] = useState(false);
  const now = useClock(open);
  const [search, setSearch] = useState("");
  const [active, setActive] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const id = useId();
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const found = useMemo(
    () => runs.runs.filter((run) => words.every((word) => run.name.toLowerCase().includes(word))),
    [runs, search],
  );
  useEffect(() => {
    if (!open) return;
    input.current?.focus();
    const close = (event: Event) => {
      if (!box.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", close);
    return () => document.removeEventListener("pointerdown", close);
  }, [open]);
  const pick = (run: RunInfo | undefined) => {
    if (run) choose(run.id);
    setOpen(false);
    setSearch("");
    button.current?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    const moves: Record<string, number> = { ArrowDown: 1, ArrowUp: -1 };
    const by = moves[event.key];
    if (by) setActive(Math.min(found.length - 1, Math.max(0, active + by)));
    else if (event.key === "Enter") pick(found[active]);
    else if (event.key === "Escape") pick(undefined);
    else return;
    event.preventDefault();
  };
  return (
    <div class="chooser" ref={box}>
      <button
        type="button"
        class="run-name"
        ref={button}
        aria-haspopup="listbox"
        aria-expanded={open}
        title={info?.name ?? ""}
        onClick={() => {
          setActive(0);
          setOpen(!open);
        }}
      >
        <bdi>{info?.name ?? "no run"}</bdi>
        <span class="amount" aria-hidden="true">
          {runs.runs.length > 1 ? `${runs.runs.length} runs ▾` : "▾"}
        </span>
      </button>
      {open && (
        <div class="popover">
          <input
            ref={input}
            type="search"
            value={search}
            placeholder="Search runs"
            aria-label="Search runs"
            list={undefined}
            role="combobox"
            aria-expanded="true"
            aria-controls={`${id}list`}
            aria-autocomplete="list"
            {...(found[active] ? { "aria-activedescendant": `${id}${active}` } : {})}
            onInput={(event) => {
              setSearch(event.currentTarget.value);
              setActive(0);
            }}
            onKeyDown={onKey}
          />
          <div role="listbox" id={`${id}list`} aria-label="Runs" class="runs" tabIndex={0} onKeyDown={onKey}>
            {found.map((run, i) => (
              // The keys are those of the search field.
              <div
                role="option"
                key={run.id}
                id={`${id}${i}`}
                aria-selected={i === active}
                tabIndex={-1}
                class={run.id === info?.id ? "run current" : "run"}
                onClick={() => pick(run)}
                title={run.name}
              >
                <bdi class="run-title">{run.name}</bdi>
                {run.alarms > 0 && <span class="badge alarm">▲ {run.alarms}</span>}
                {run.notices > 0 && <span class="badge">○ {run.notices}</span>}
                <span class="quiet">
                  {run.problem
                    ? "problem"
                    : run.reports === null
                      ? "not read yet"
                      : run.reports
                        ? run.step === null
                          ? "finished"
                          : `step ${count(run.step)}`
                        : "no results yet"}
                  {run.updated > 0 && runs.live ? `, ${ago(now - run.updated)}` : ""}
                </span>
              </div>
            ))}
          </div>
          {!found.length && <p class="note">No run's name holds this.</p>}
        </div>
      )}
    </div>
  );
}

/** What is not as it should be: problems first, then what lags or was missed. */
export function Banners({
  runs,
  run,
  offline,
  error,
}: {
  runs: Runs | null;
  run: Run | null;
  offline: string;
  error: string;
}) {
  const serious = [offline, error, run?.problem ?? ""].filter(Boolean);
  const lag = run?.lag[run.lag.length - 1] ?? 0;
  const every = run?.every ?? 0;
  const mild = [
    ...(lag > 0 && lag >= 2 * every
      ? [`The latest result came ${plural(lag, "step")} after its weights were copied.`]
      : []),
    ...(run && run.skipped > 0 ? [`${plural(run.skipped, "snapshot")} not taken: the worker was busy.`] : []),
    ...(run && run.over_budget > 0
      ? [`${plural(run.over_budget, "snapshot")} not taken: the budget was used up.`]
      : []),
  ];
  const others = runs?.problems ?? [];
  if (!serious.length && !mild.length && !others.length) return null;
  return (
    <div class="banners">
      {serious.map((text) => (
        <p class="banner serious" role="alert" key={text}>
          <span aria-hidden="true">▲</span> {text}
        </p>
      ))}
      {mild.length > 0 && <p class="banner">{mild.join(" ")}</p>}
      {others.length > 0 && (
        <details class="banner">
          <summary>{plural(others.length, "problem")} with files</summary>
          <ul>
            {others.map((text) => (
              <li key={text}>
                <bdi>{text}</bdi>
              </li>
            ))}
          </ul>
        </details>
      )}
    </div>
  );
}
