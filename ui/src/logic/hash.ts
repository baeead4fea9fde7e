/** The view as part of the address, so that it can be linked. */

export interface Link {
  run: string | null;
  column: string | null;
  layer: string | null;
  step: number | null;
}

export function parseHash(hash: string): Link {
  const parameters = new URLSearchParams(hash.replace(/^#/, ""));
  const step = parameters.get("step");
  const value = step === null || step.trim() === "" ? Number.NaN : Number(step);
  return {
    run: parameters.get("run"),
    column: parameters.get("column"),
    layer: parameters.get("layer"),
    step: Number.isFinite(value) ? value : null,
  };
}

export function formatHash(link: Link): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(link)) if (value !== null) parameters.set(key, String(value));
  return `#${parameters}`;
}
