/**
 * A classifier of `compactnets web` in a page of one's own: WebAssembly that imports nothing, and its weights.
 *
 *     const network = await Network.open(new URL("site/", location.href));       // a folder of `compactnets web --output site --no-serve`
 *     const classes = network.classify(imageData);        // of network.size x network.size pixels, best first
 *
 * For the planar engine (the default) and classifiers. A call takes the time of a frame or less; in a page that must not
 * stutter, use it in a worker.
 */

const ALIGNMENT = 64; // bytes, of all that the network is given
const PAGE = 65536; // bytes of WebAssembly's memory

export class Network {
  /** Load the network of this id, or the first one, from the folder at this address, which ends with a slash. */
  static async open(folder, id) {
    const read = async (file) => {
      const answer = await fetch(new URL(file, folder));
      if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
      return answer;
    };
    const { networks } = await (await read("networks.json")).json();
    const found = id === undefined ? networks[0] : networks.find((each) => each.id === id);
    if (!found) throw new Error(`no network ${id}: expected ${networks.map((each) => each.id).join(" or ")}`);
    if (found.engine !== "planar" || found.task !== "classification") {
      throw new Error(`${found.id}: expected a classifier in the planar engine, found ${found.task} in ${found.engine}`);
    }
    const [code, weights] = await Promise.all([found.code.file, found.file].map(read));
    return new Network(found, await code.arrayBuffer(), await weights.arrayBuffer());
  }

  /** Make a network of its entry in networks.json and the bytes of its two files. */
  constructor(about, code, weights) {
    this.about = about;
    this.size = about.preprocess.size;
    this.labels = about.class_labels;
    this.exports = new WebAssembly.Instance(new WebAssembly.Module(code), {}).exports;
    this.end = this.exports.__heap_base.value;
    const channels = about.preprocess.mean.length;
    this.places = {
      weights: this.place(weights.byteLength),
      arena: this.place(this.exports[`${about.code.name}_arena_bytes`]()),
      image: this.place(4 * channels * this.size * this.size),
      logits: this.place(4 * this.labels.length),
    };
    new Uint8Array(this.exports.memory.buffer).set(new Uint8Array(weights), this.places.weights);
  }

  place(bytes) {
    const start = Math.ceil(this.end / ALIGNMENT) * ALIGNMENT;
    this.end = start + bytes;
    const { memory } = this.exports;
    const missing = Math.ceil((this.end - memory.buffer.byteLength) / PAGE);
    if (missing > 0) memory.grow(missing);
    return start;
  }

  /** Return the classes, best first, as {label, probability}, of an ImageData of size x size pixels. */
  classify({ data, width, height }) {
    if (width !== this.size || height !== this.size) {
      throw new Error(`expected ${this.size} x ${this.size} pixels, found ${width} x ${height}`);
    }
    const { weights, arena, image, logits } = this.places;
    const { mean, std } = this.about.preprocess;
    const area = this.size * this.size;
    const input = new Float32Array(this.exports.memory.buffer, image, mean.length * area); // one channel after another
    for (let at = 0; at < area; at++) {
      const [red, green, blue] = data.subarray(4 * at, 4 * at + 3);
      const grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16; // as Pillow
      const levels = mean.length === 1 ? [grey] : [red, green, blue];
      levels.forEach((level, channel) => {
        input[channel * area + at] = (level / 255 - mean[channel]) / std[channel];
      });
    }
    this.exports[`${this.about.code.name}_run`](weights, arena, image, logits);
    const found = Array.from(new Float32Array(this.exports.memory.buffer, logits, this.labels.length));
    const largest = Math.max(...found);
    const powers = found.map((logit) => Math.exp(logit - largest));
    const total = powers.reduce((sum, power) => sum + power);
    return powers
      .map((power, index) => ({ label: this.labels[index], probability: power / total }))
      .sort((one, other) => other.probability - one.probability);
  }
}
