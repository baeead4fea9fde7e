/** The heading of a column by which a table can be sorted. */

export interface Sorting<Key> {
  readonly key: Key;
  readonly up: boolean;
}

interface SortHeadProps<Key> {
  of: Key;
  label: string;
  title?: string;
  numeric: boolean;
  sorting: Sorting<Key> | null;
  sort: (sorting: Sorting<Key>) => void;
}

/** The first click sorts numbers from the largest on, and words from A on. */
export function SortHead<Key>({ of, label, title, numeric, sorting, sort }: SortHeadProps<Key>) {
  const isKey = sorting?.key === of;
  const state = !isKey ? "none" : sorting.up ? "ascending" : "descending";
  return (
    <th scope="col" aria-sort={state} class={numeric ? "number" : ""}>
      <button type="button" title={title} onClick={() => sort({ key: of, up: isKey ? !sorting.up : !numeric })}>
        {label}
        <span aria-hidden="true">{isKey ? (sorting.up ? " ▲" : " ▼") : ""}</span>
      </button>
    </th>
  );
}
