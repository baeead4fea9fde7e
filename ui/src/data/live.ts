/** Follows the runs while the page is seen. */

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Runs, Source } from "./contract";
import { HeldRun } from "./held";
import { SourceError } from "./source";

const POLL = 2000;
const SLOWEST = 30_000;
/** The list of runs is asked for less often than the run that is shown. */
const RUNS_EVERY = 3;

export interface Live {
  readonly runs: Runs | null;
  readonly held: HeldRun | null;
  /** Counts the changes of what is held. */
  readonly version: number;
  readonly offline: string;
  readonly error: string;
}

/** Follows the list of runs and one run, as long as the page is seen. */
export function useLive(source: Source, id: string | null): Live {
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
      try {
        const wantsRuns = !held || !known.current || round % RUNS_EVERY === 0;
        // The list may be there although the run is not, such as that of an old link.
        const [list, refreshed] = await Promise.allSettled([wantsRuns ? source.runs() : null, held?.refresh()]);
        if (stopped) return;
        if (list.status === "rejected") throw list.reason;
        if (list.value) {
          known.current = list.value;
          setRuns(list.value);
        }
        if (refreshed.status === "rejected") throw refreshed.reason;
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
