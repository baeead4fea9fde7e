/** alpha of each layer by depth, with intervals and control: what a finished model shows instead of the map. */

import { useMemo, useRef } from "preact/hooks";
import type uPlot from "uplot";
import type { Layer } from "../data/contract";
import { at, type Grid } from "../data/merge";
import { number } from "../logic/format";
import { nearest } from "../logic/steps";
import { axis, clipped, palette, usePlot } from "./plot";

interface DepthProps {
  layers: readonly Layer[];
  shown: readonly number[];
  grids: ReadonlyMap<string, Grid>;
  stamp: string;
  report: number;
  theme: string;
  chosen: number;
  select: (layer: number) => void;
}

export function DepthChart(props: DepthProps) {
  const { shown, grids, stamp, report, theme, chosen } = props;
  // `stamp` says when the grids are new.
  const data = useMemo((): uPlot.AlignedData => {
    const column = (name: string) =>
      shown.map((layer) => {
        const value = at(grids.get(name), report, layer);
        return Number.isNaN(value) ? null : value;
      });
    return [
      shown.map((_, i) => i + 1),
      column("alpha"),
      column("alpha_low"),
      column("alpha_high"),
      column("rand_alpha"),
      column("reliable"),
    ];
  }, [shown, stamp, report]);
  const now = useRef(props);
  now.current = props;
  const words = useRef<HTMLSpanElement>(null);
  const { box } = usePlot({
    data,
    height: 320,
    structure: [theme],
    drawing: [chosen],
    build: () => {
      const colors = palette();
      return {
        padding: [10, 12, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
        scales: {
          x: { time: false, range: (_u, low, high) => [(low ?? 0) - 1, (high ?? 1) + 1] },
          y: { range: (u) => rangeOf(u) },
        },
        axes: [
          axis(colors, {
            size: 34,
            label: "layers in order",
            labelSize: 16,
            labelFont: axis(colors, {}).font as string,
            incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500],
          }),
          axis(colors, { size: 44, values: (_u, splits) => splits.map((v) => number(v)) }),
        ],
        series: [{}, ...new Array(5).fill(0).map(() => ({ paths: () => null, points: { show: false } }))],
        hooks: {
          draw: [(u) => drawLayers(u, now.current, colors)],
          setCursor: [
            (u) => {
              const i = u.cursor.idx;
              const layer = i === null || i === undefined ? undefined : now.current.shown[i];
              if (words.current && layer !== undefined && i !== null && i !== undefined && (u.cursor.left ?? -1) >= 0) {
                words.current.textContent = `${now.current.layers[layer]?.shown}: alpha ${number(u.data[1]?.[i])}, shuffled ${number(u.data[4]?.[i])}`;
              }
            },
          ],
          ready: [
            (u) =>
              u.over.addEventListener("click", (event) => {
                const x = u.posToVal(event.clientX - u.over.getBoundingClientRect().left, "x");
                const layer = now.current.shown[nearest(u.data[0], x)];
                if (layer !== undefined) now.current.select(layer);
              }),
          ],
        },
      };
    },
  });
  // Colours follow the theme.
  const colors = useMemo(palette, [theme]);
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">alpha by depth</span>
        <span class="keys">
          <span class="key">
            <i class="dot" style={{ background: colors.accent }} />
            alpha, 95 % interval
          </span>
          <span class="key">
            <i class="dot hollow" style={{ borderColor: colors.accent }} />
            no reliable tail
          </span>
          <span class="key">
            <i class="block" style={{ background: colors.control }} />
            shuffled (control)
          </span>
          <span class="key">dotted: 2 and 6</span>
        </span>
        <span class="readout" ref={words} />
      </figcaption>
      <div
        ref={box}
        class="plot"
        role="img"
        aria-label="alpha of each layer by depth. The table has the same values."
      />
    </figure>
  );
}

function rangeOf(u: uPlot): [number, number] {
  const all = [1, 4].flatMap((i) => Array.from(u.data[i] ?? []).filter((v) => typeof v === "number"));
  return [1, all.length ? Math.min(20, Math.max(7, ...all) * 1.06) : 10];
}

function drawLayers(u: uPlot, { chosen, shown }: DepthProps, colors: ReturnType<typeof palette>): void {
  const r = devicePixelRatio;
  const [xs, alpha, low, high, control, reliable] = u.data as (number | null)[][];
  const X = (x: number) => u.valToPos(x, "x", true);
  const Y = (y: number) => u.valToPos(y, "y", true);
  clipped(u, (context) => {
    context.setLineDash([2 * r, 3 * r]);
    context.strokeStyle = colors.muted;
    for (const y of [2, 6]) {
      context.beginPath();
      context.moveTo(u.bbox.left, Y(y));
      context.lineTo(u.bbox.left + u.bbox.width, Y(y));
      context.stroke();
    }
    context.setLineDash([]);
    xs?.forEach((x, i) => {
      const px = X(x as number);
      const c = control?.[i];
      if (c !== null && c !== undefined) {
        context.fillStyle = colors.control;
        context.fillRect(px - 3 * r, Y(c) - r, 6 * r, 2 * r);
      }
      const a = alpha?.[i];
      if (a === null || a === undefined) return;
      const [from, to] = [low?.[i], high?.[i]];
      context.strokeStyle = colors.accent;
      context.lineWidth = 1.2 * r;
      if (from !== null && from !== undefined && to !== null && to !== undefined) {
        context.globalAlpha = 0.55;
        context.beginPath();
        context.moveTo(px, Y(from));
        context.lineTo(px, Y(to));
        context.stroke();
        context.globalAlpha = 1;
      }
      context.beginPath();
      context.arc(px, Y(a), 3.2 * r, 0, 2 * Math.PI);
      context.fillStyle = reliable?.[i] === 1 ? colors.accent : colors.surface;
      context.fill();
      context.stroke();
      if (shown[i] === chosen) {
        context.strokeStyle = colors.text;
        context.lineWidth = 2 * r;
        context.beginPath();
        context.arc(px, Y(a), 7 * r, 0, 2 * Math.PI);
        context.stroke();
      }
    });
  });
}
