/** The whole page: what is chosen, where the data come from, and how the parts share them. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Runs, Source } from "../data/contract";
import { useLive } from "../data/live";
import { useModels } from "../data/models";
import { parseHash } from "../logic/hash";
import { Flows } from "./flows";
import { Banners, Header } from "./header";
import { Help } from "./help";
import { Correlations, Verdict } from "./models";
import { RunView } from "./run";
import type { Baseline } from "./spectrum";
import { useTheme } from "./theme";

/** The first run that has something to show, if the address names none; of models, the first one that is compared. */
function firstRun(runs: Runs): string | null {
  const shown = runs.runs.filter(({ reports }) => reports);
  return (shown.find(({ id }) => id !== runs.comparison?.base) ?? shown[0] ?? runs.runs[0])?.id ?? null;
}

export function App({ source }: { source: Source }) {
  const [theme, setTheme, seen] = useTheme();
  const link = useRef(parseHash(location.hash));
  const [id, setId] = useState<string | null>(link.current.run);
  const [visit, setVisit] = useState(0);
  const { runs, held, version, offline, error } = useLive(source, id);
  const run = held?.run ?? null;
  const models = useModels(source, runs);
  useEffect(() => {
    if (!runs || (id !== null && runs.runs.some((each) => each.id === id))) return;
    link.current = { ...link.current, run: null, layer: null, step: null };
    setId(firstRun(runs));
  }, [runs, id]);
  const help = useRef<HTMLDialogElement>(null);
  const main = useRef<HTMLElement>(null);
  const info = runs?.runs.find((each) => each.id === id) ?? null;
  // A pinned spectrum stays when another run is chosen, so that two runs can be laid over each other.
  const [pinned, setPinned] = useState<Baseline | null>(null);
  const [columnName, setColumnName] = useState(link.current.column ?? "alpha");
  useEffect(() => {
    document.title = info ? `${info.alarms ? "▲ " : ""}${info.name.slice(0, 80)} – spectra` : "Spectra of layers";
  }, [info?.name, info?.alarms]);
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
        {runs.comparison && <Verdict comparison={runs.comparison} models={models} chosen={id} />}
        {run && held && run.steps.length > 0 && (
          <RunView
            key={`${held.id} ${visit}`}
            {...{ source, runs, run, held, version, columnName, setColumnName, pinned, setPinned, help }}
            theme={seen}
            link={link}
          />
        )}
        {models.length > 0 && <Flows models={models} chosen={id} theme={seen} />}
        {runs.comparison && runs.comparison.correlations.length > 0 && <Correlations comparison={runs.comparison} />}
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
