/** The line at the top: which run, whether it is live, and what to know before reading on. */

import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import type { Run, RunInfo, Runs } from "../data/contract";
import { ago, count, plural } from "../logic/format";

export type Theme = "auto" | "light" | "dark";

interface HeaderProps {
  runs: Runs;
  run: Run | null;
  info: RunInfo | null;
  now: number;
  choose: (id: string) => void;
  theme: Theme;
  setTheme: (theme: Theme) => void;
  help: () => void;
}

export function Header({ runs, run, info, now, choose, theme, setTheme, help }: HeaderProps) {
  const next: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
  return (
    <header class="top">
      <h1><span class="hidden">Spectra of </span><RunChooser runs={runs} info={info} now={now} choose={choose} /></h1>
      <LiveState runs={runs} run={run} info={info} now={now} />
      <span class="spacer" />
      <button type="button" class="small" onClick={() => setTheme(next[theme])} title="Light, dark, or as the system has it">
        theme: {theme}
      </button>
      <button type="button" class="small" onClick={help} title="Keys and signs (?)" aria-label="Help: keys and signs">?</button>
    </header>
  );
}

function LiveState({ runs, run, info, now }: { runs: Runs; run: Run | null; info: RunInfo | null; now: number }) {
  const last = run?.steps.length ? run.steps[run.steps.length - 1] : null;
  const step = last === null || last === undefined ? "" : `step ${count(last)}`;
  const time = run?.times[run.times.length - 1] ?? info?.updated;
  const age = time ? now - time : Number.NaN;
  const live = runs.live && age < 120;
  const when = time ? (runs.live ? ago(age) : `of ${new Date(time * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })}`) : "";
  const words = [live ? "live" : runs.live ? "no new results" : "file", step, runs.live && !live && when ? `last ${when}` : when].filter(Boolean).join(", ");
  return (
    <span class={live ? "state live" : "state"}>
      <i aria-hidden="true" />
      {words}
    </span>
  );
}

function RunChooser({ runs, info, now, choose }: { runs: Runs; info: RunInfo | null; now: number; choose: (id: string) => void }) {
  const [open, setOpen] = useState(false);
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
        type="button" class="run-name" ref={button} aria-haspopup="listbox" aria-expanded={open} title={info?.name ?? ""}
        onClick={() => { setActive(0); setOpen(!open); }}
      >
        <bdi>{info?.name ?? "no run"}</bdi>
        <span class="amount" aria-hidden="true">{runs.runs.length > 1 ? `${runs.runs.length} runs ▾` : "▾"}</span>
      </button>
      {open && (
        <div class="popover">
          <input
            ref={input} type="search" value={search} placeholder="Search runs" aria-label="Search runs"
            {...{ role: "combobox", "aria-expanded": true, "aria-controls": `${id}list`, "aria-autocomplete": "list" }}
            {...(found[active] ? { "aria-activedescendant": `${id}${active}` } : {})}
            onInput={(event) => { setSearch(event.currentTarget.value); setActive(0); }} onKeyDown={onKey}
          />
          <div role="listbox" id={`${id}list`} aria-label="Runs" class="runs" tabIndex={0} onKeyDown={onKey}>
            {found.map((run, i) => (
              // biome-ignore lint/a11y/useKeyWithClickEvents: the keys are those of the search field
              <div
                role="option" key={run.id} id={`${id}${i}`} aria-selected={i === active} tabIndex={-1}
                class={run.id === info?.id ? "run current" : "run"} onClick={() => pick(run)} title={run.name}
              >
                <bdi class="run-title">{run.name}</bdi>
                {run.alarms > 0 && <span class="badge alarm">▲ {run.alarms}</span>}
                {run.notices > 0 && <span class="badge">○ {run.notices}</span>}
                <span class="quiet">
                  {run.problem ? "problem" : run.reports ? (run.step === null ? "finished" : `step ${count(run.step)}`) : "no results yet"}
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
export function Banners({ runs, run, offline, error }: { runs: Runs | null; run: Run | null; offline: string; error: string }) {
  const serious = [offline, error, run?.problem ?? ""].filter(Boolean);
  const lag = run?.lag[run.lag.length - 1] ?? 0;
  const every = run?.every ?? 0;
  const mild = [
    ...(lag > 0 && lag >= 2 * every ? [`The latest result came ${plural(lag, "step")} after its weights were copied.`] : []),
    ...(run && run.skipped > 0 ? [`${plural(run.skipped, "snapshot")} not taken: the worker was busy.`] : []),
    ...(run && run.over_budget > 0 ? [`${plural(run.over_budget, "snapshot")} not taken: the budget was used up.`] : []),
  ];
  const others = runs?.problems ?? [];
  if (!serious.length && !mild.length && !others.length) return null;
  return (
    <div class="banners">
      {serious.map((text) => <p class="banner serious" role="alert" key={text}><span aria-hidden="true">▲</span> {text}</p>)}
      {mild.length > 0 && <p class="banner">{mild.join(" ")}</p>}
      {others.length > 0 && (
        <details class="banner">
          <summary>{plural(others.length, "problem")} with files</summary>
          <ul>{others.map((text) => <li key={text}><bdi>{text}</bdi></li>)}</ul>
        </details>
      )}
    </div>
  );
}
