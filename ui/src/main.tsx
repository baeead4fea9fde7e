import "uplot/dist/uPlot.min.css";
import "./page.css";
import { render } from "preact";
import { openSource } from "./data/source";
import { App } from "./view/app";

function start(): void {
  const element = document.getElementById("app");
  if (element) render(<App source={openSource(document)} />, element);
}

// In a page that is one file, the script stands in the head and runs before the rest of the page is there.
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start, { once: true });
else start();
