/** uPlot inside Preact: made again when its structure changes, drawn again when its data do. */

import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface PlotProps {
  readonly build: () => Omit<uPlot.Options, "width" | "height">;
  readonly data: uPlot.AlignedData;
  readonly height: number;
  /** What the options depend on. */
  readonly structure: readonly unknown[];
  /** What drawing depends on, apart from the data. */
  readonly drawing: readonly unknown[];
}

export function usePlot(props: PlotProps): { box: RefObject<HTMLDivElement | null>; plot: RefObject<uPlot | null> } {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const { build, data, height, structure, drawing } = props;
  // `structure` says what the options depend on.
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const made = new uPlot({ ...build(), width: Math.max(40, element.clientWidth), height }, data, element);
    plot.current = made;
    const observer = new ResizeObserver(() => {
      const width = Math.max(40, element.clientWidth);
      if (width !== made.width) made.setSize({ width, height: made.height });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, structure);
  useLayoutEffect(() => {
    const made = plot.current;
    if (made && made.height !== height) made.setSize({ width: made.width, height });
  }, [height]);
  const first = useRef(true);
  // `drawing` says what drawing depends on.
  useEffect(() => {
    if (first.current) first.current = false;
    else plot.current?.setData(data);
  }, [data, ...drawing]);
  return { box, plot };
}

/** Colours of the theme, from the style sheet. */
export interface Palette {
  readonly text: string;
  readonly muted: string;
  readonly line: string;
  readonly surface: string;
  readonly accent: string;
  readonly hatch: string;
  readonly empty: string;
  readonly series: readonly string[];
  readonly bar: string;
  readonly above: string;
  readonly control: string;
  readonly fit: string;
  readonly baseline: string;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  return {
    text: of("text"),
    muted: of("muted"),
    line: of("line"),
    surface: of("surface"),
    accent: of("accent"),
    hatch: of("hatch"),
    empty: of("empty"),
    bar: of("bar"),
    above: of("above"),
    control: of("control"),
    fit: of("fit"),
    baseline: of("baseline"),
    series: [1, 2, 3, 4, 5, 6].map((i) => of(`series-${i}`)),
  };
}

export const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

export function axis(colors: Palette, more: Partial<uPlot.Axis>): uPlot.Axis {
  return {
    stroke: colors.muted,
    font: FONT,
    grid: { stroke: colors.line, width: 1 },
    ticks: { stroke: colors.line, width: 1, size: 4 },
    gap: 4,
    ...more,
  };
}

/** Follows a polyline in the canvas; points without a place on the axes (0 on a log axis) go to the bottom. */
export function trace(u: uPlot, points: readonly (readonly [number, number])[], start = true): void {
  const bottom = u.bbox.top + u.bbox.height;
  points.forEach(([x, y], i) => {
    const px = u.valToPos(x, "x", true);
    const raw = u.valToPos(y, "y", true);
    const py = Number.isFinite(raw) ? Math.min(raw, bottom + 2) : bottom + 2;
    if (i === 0 && start) u.ctx.moveTo(px, py);
    else u.ctx.lineTo(px, py);
  });
}

/** Draws inside the area of the plot only, and this many canvas pixels left and right of it. */
export function clipped(u: uPlot, draw: (context: CanvasRenderingContext2D) => void, beside = 0): void {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left - beside, top, width + 2 * beside, height);
  u.ctx.clip();
  draw(u.ctx);
  u.ctx.restore();
}

export function verticalLine(u: uPlot, x: number, color: string, dash: number[] = [], width = 1): void {
  const at = Math.round(u.valToPos(x, "x", true)) + 0.5;
  clipped(u, (context) => {
    context.strokeStyle = color;
    context.lineWidth = width * devicePixelRatio;
    context.setLineDash(dash.map((d) => d * devicePixelRatio));
    context.beginPath();
    context.moveTo(at, u.bbox.top);
    context.lineTo(at, u.bbox.top + u.bbox.height);
    context.stroke();
  });
}
