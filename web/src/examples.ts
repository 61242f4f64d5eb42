/** The bundled photographs, with the attribution that their licence asks for. */

import { element } from "./element";
import type { Example } from "./types";

/** A list of buttons; each gives its photograph to `choose`, or why it cannot to `fail`. */
export function exampleList(
  examples: Example[],
  choose: (blob: Blob, name: string) => void,
  fail: (error: unknown) => void,
): HTMLElement[] {
  return examples.map((example) => {
    const thumbnail = element("img");
    thumbnail.src = example.file;
    thumbnail.alt = example.name;
    const button = element("button", "", thumbnail);
    button.type = "button";
    button.onclick = async () => {
      try {
        const response = await fetch(example.file);
        if (!response.ok) throw new Error(`${example.file} could not be fetched: the server answered ${response.status}.`);
        choose(await response.blob(), example.name);
      } catch (error) {
        fail(error);
      }
    };
    const credit = element("a", "", example.attribution);
    credit.href = example.source;
    return element("li", "", button, element("p", "example", example.name), element("p", "credit", credit));
  });
}
