/** Spectra that the page has asked for; the last ones are kept. */

import { useEffect, useState } from "preact/hooks";
import type { Cell, Source } from "./contract";
import { SourceError } from "./source";

const MOST_KEPT = 300;
const kept = new Map<string, Promise<Cell>>();

export interface CellPlace {
  readonly run: string;
  readonly version: string;
  readonly layer: number;
  readonly report: number;
}

export const cellKey = (place: CellPlace): string => `${place.run}\n${place.version}\n${place.layer}\n${place.report}`;

/** Asks for a spectrum, unless it is known. One of another version of the run is none. */
export function askCell(source: Source, place: CellPlace): Promise<Cell> {
  const key = cellKey(place);
  const known = kept.get(key);
  if (known) return known;
  const asked = source.cell(place.run, place.layer, place.report).then((cell) => {
    if (cell.version === place.version) return cell;
    throw new SourceError("The run was started again; the page loads it.", 409);
  });
  kept.set(key, asked);
  asked.catch(() => kept.delete(key));
  const oldest = kept.keys().next().value;
  if (kept.size > MOST_KEPT && oldest !== undefined) kept.delete(oldest);
  return asked;
}

export interface CellState {
  readonly cell: Cell | null;
  readonly place: CellPlace | null;
  readonly error: string;
}

const EMPTY: CellState = { cell: null, place: null, error: "" };

/** The spectrum at a place. While it is on its way, the one before is still there. */
export function useCell(source: Source, place: CellPlace | null): CellState {
  const [state, setState] = useState(EMPTY);
  const key = place ? cellKey(place) : "";
  // The key stands for the place.
  useEffect(() => {
    if (!place) {
      setState(EMPTY);
      return;
    }
    let current = true;
    askCell(source, place).then(
      (cell) => current && setState({ cell, place, error: "" }),
      (error: Error) => current && setState({ cell: null, place, error: error.message }),
    );
    return () => {
      current = false;
    };
  }, [source, key]);
  return state;
}
