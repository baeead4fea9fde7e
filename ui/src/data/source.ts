/** The two places the page reads from: a server below the page's own address, or data inside the page's file. */

import type { Cell, Rows, Run, Runs, Source } from "./contract";

/** The server answered with an error, or there was no answer (`status` 0). */
export class SourceError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function ask(path: string, parameters: Record<string, string | number>): Promise<Response> {
  const address = new URL(`api/${path}`, document.baseURI);
  for (const [key, value] of Object.entries(parameters)) address.searchParams.set(key, String(value));
  let answer: Response;
  try {
    answer = await fetch(address, { cache: "no-store" });
  } catch {
    throw new SourceError("The server cannot be reached.", 0);
  }
  if (answer.ok) return answer;
  const text = (await answer.text().catch(() => "")).trim();
  throw new SourceError(text.slice(0, 500) || `The server answered with status ${answer.status}.`, answer.status);
}

/** Little-endian bytes as numbers; the last bytes are ignored if they are no whole number. */
export function float32(bytes: ArrayBuffer): Float32Array {
  const length = Math.floor(bytes.byteLength / 4);
  if (new Uint8Array(new Uint16Array([1]).buffer)[0] === 1) return new Float32Array(bytes, 0, length);
  const view = new DataView(bytes);
  return Float32Array.from({ length }, (_, i) => view.getFloat32(4 * i, true));
}

const VERSION = "X-Run-Version";

export class HttpSource implements Source {
  async runs(): Promise<Runs> {
    return (await ask("runs", {})).json();
  }

  async run(id: string, from: number): Promise<Run> {
    return (await ask("run", { id, from })).json();
  }

  async column(id: string, name: string, from: number): Promise<Rows> {
    const answer = await ask("column", { id, name, from });
    return { version: answer.headers.get(VERSION) ?? "", values: float32(await answer.arrayBuffer()) };
  }

  async cell(id: string, layer: number, report: number): Promise<Cell> {
    return (await ask("cell", { id, layer, report })).json();
  }
}

interface Inlined {
  runs: Runs;
  run: Record<string, Run>;
  columns: Record<string, Record<string, string>>;
  cells: Record<string, Record<string, string>>;
}

/** The cells of one report, by layer; their version is that of the run. */
type Report = readonly (Omit<Cell, "version"> | null)[];

/** Bytes of base64 text that was compressed with zlib. */
export async function inflated(text: string): Promise<ArrayBuffer> {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function own<T>(record: Record<string, T> | undefined, key: string): T | undefined {
  return record && Object.hasOwn(record, key) ? record[key] : undefined;
}

export class InlineSource implements Source {
  private readonly data: Inlined;
  private last: { key: string; cells: Promise<Report> } | null = null;

  constructor(text: string) {
    this.data = JSON.parse(text);
  }

  async runs(): Promise<Runs> {
    return this.data.runs;
  }

  async run(id: string): Promise<Run> {
    const run = own(this.data.run, id);
    if (!run) throw new SourceError("This file does not hold that run.", 404);
    return run;
  }

  async column(id: string, name: string, from: number): Promise<Rows> {
    const packed = own(own(this.data.columns, id), name);
    if (packed === undefined) throw new SourceError(`This file does not hold the column ${name}.`, 404);
    const { layers, version } = await this.run(id);
    return { version, values: float32(await inflated(packed)).slice(from * layers.length) };
  }

  async cell(id: string, layer: number, report: number): Promise<Cell> {
    const packed = own(own(this.data.cells, id), String(report));
    if (packed === undefined) throw new SourceError("This file holds no spectra of this step.", 404);
    const key = `${id}\n${report}`;
    if (this.last?.key !== key) {
      const cells = inflated(packed).then((bytes) => JSON.parse(new TextDecoder().decode(bytes)));
      this.last = { key, cells };
    }
    const cell = (await this.last.cells)[layer];
    if (!cell) throw new SourceError("This file holds no spectrum of this layer at this step.", 404);
    return { ...cell, version: (await this.run(id)).version };
  }
}

/** The data inside this file if there is any, otherwise the server. */
export function openSource(page: Document): Source {
  const inlined = page.getElementById("ww-data");
  return inlined?.textContent ? new InlineSource(inlined.textContent) : new HttpSource();
}
