/** Which cell is chosen. It is kept by name and step, which stay true when reports are thinned out or a run starts anew. */

import { useCallback, useMemo, useRef, useState } from "preact/hooks";
import type { Run } from "../data/contract";
import type { Link } from "../logic/hash";
import { nearest } from "../logic/steps";

interface Choice {
  /** Null until the worst layer is known. */
  readonly layer: string | null;
  /** Null while the latest step is followed. */
  readonly step: number | null;
}

export interface Chosen {
  /** Index of the layer; -1 until one is known. */
  readonly layer: number;
  readonly report: number;
  readonly follows: boolean;
  /** Chooses a cell; without a report the latest one is followed. */
  readonly select: (layer: number, report: number | null) => void;
  /** Chooses a layer at the step that is shown. */
  readonly selectLayer: (layer: number) => void;
}

/** Steps as numbers that grow; the report of a finished model has none. */
export const numberedSteps = (run: Run): number[] => run.steps.map((step, i) => step ?? i);

/** The cell of the address, else the worst layer of the findings at the latest step. */
function atFirst(run: Run, link: Link): Choice {
  const worst = run.findings.find(({ until, layers }) => until === null && layers.length)?.layers[0];
  return { layer: link.layer ?? run.layers[worst ?? -1]?.name ?? null, step: link.step };
}

export function useChoice(run: Run, steps: readonly number[], link: Link): Chosen {
  const [choice, setChoice] = useState(() => atFirst(run, link));
  const index = useMemo(() => new Map(run.layers.map(({ name }, i) => [name, i])), [run.layers]);
  const now = useRef({ run, steps });
  now.current = { run, steps };
  const nameOf = (layer: number): string | null => now.current.run.layers[layer]?.name ?? null;
  const select = useCallback((layer: number, report: number | null) => {
    const step = report === null ? null : (now.current.steps[report] ?? null);
    setChoice({ layer: nameOf(layer), step });
  }, []);
  const selectLayer = useCallback((layer: number) => {
    setChoice(({ step }) => ({ layer: nameOf(layer), step }));
  }, []);
  return {
    layer: choice.layer === null ? -1 : (index.get(choice.layer) ?? -1),
    report: choice.step === null ? steps.length - 1 : Math.max(0, nearest(steps, choice.step)),
    follows: choice.step === null,
    select,
    selectLayer,
  };
}
