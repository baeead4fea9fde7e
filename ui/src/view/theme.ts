/** Light or dark. */

import { useEffect, useMemo, useState } from "preact/hooks";

export type Theme = "auto" | "light" | "dark";

function storedTheme(): Theme {
  try {
    const stored = localStorage.getItem("ww-theme");
    return stored === "light" || stored === "dark" ? stored : "auto";
  } catch {
    return "auto";
  }
}

/** The theme that is chosen, and the one that is seen, which changes when colours have to be read again. */
export function useTheme(): [Theme, (theme: Theme) => void, string] {
  const [theme, setTheme] = useState(storedTheme);
  const query = useMemo(() => matchMedia("(prefers-color-scheme: dark)"), []);
  const [dark, setDark] = useState(() => query.matches);
  useEffect(() => {
    const listen = () => setDark(query.matches);
    query.addEventListener("change", listen);
    return () => query.removeEventListener("change", listen);
  }, [query]);
  const choose = (next: Theme) => {
    setTheme(next);
    try {
      localStorage.setItem("ww-theme", next);
    } catch {
      // A frame without storage: the choice holds as long as the page.
    }
  };
  const seen = theme === "auto" ? (dark ? "dark" : "light") : theme;
  // Before the parts of the page read its colours.
  const { dataset } = document.documentElement;
  if (dataset.theme !== seen) dataset.theme = seen;
  return [theme, choose, seen];
}
