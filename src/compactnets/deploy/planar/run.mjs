// node run.mjs FOLDER NAME IMAGES OUTPUTS: run the module FOLDER/code on FOLDER/images; the logits go to standard output.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [folder, name] = process.argv.slice(2);
const [count, outputs] = process.argv.slice(4).map(Number);
const [code, weights, images] = ["code", "weights", "images"].map((file) => readFileSync(join(folder, file)));
const { instance } = await WebAssembly.instantiate(code, {});
const { memory, __heap_base } = instance.exports;
let end = __heap_base.value;

function place(bytes) {
    const start = (end + 63) & ~63;
    end = start + bytes;
    const pages = Math.ceil((end - memory.buffer.byteLength) / 65536);
    if (pages > 0) memory.grow(pages);
    return start;
}

const size = images.length / count;
const [at, arena] = [place(weights.length), place(instance.exports[`${name}_arena_bytes`]())];
const [image, logits] = [place(size), place(4 * outputs)];
const bytes = new Uint8Array(memory.buffer);
bytes.set(weights, at);
for (let n = 0; n < count; n++) {
    bytes.set(images.subarray(n * size, (n + 1) * size), image);
    instance.exports[`${name}_run`](at, arena, image, logits);
    process.stdout.write(bytes.slice(logits, logits + 4 * outputs));
}
