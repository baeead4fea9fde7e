/** Keys of the page. */

import { useEffect, useRef } from "preact/hooks";

/** Keys of the page, apart from those that a field, a list or a scrolling table uses itself. */
export function useKeys(handle: (event: KeyboardEvent, inMap: boolean) => boolean): void {
  const latest = useRef(handle);
  latest.current = handle;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog, .popover"))
        return;
      const inMap = target.closest("[data-keys=map]") !== null;
      if (event.key.startsWith("Arrow") && target.closest(".scroll")) return;
      if (latest.current(event, inMap)) event.preventDefault();
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);
}
