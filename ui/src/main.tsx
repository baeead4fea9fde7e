import "uplot/dist/uPlot.min.css";
import "./page.css";
import { render } from "preact";
import { openSource } from "./data/source";
import { App } from "./view/app";

const element = document.getElementById("app");
if (element) render(<App source={openSource(document)} />, element);
