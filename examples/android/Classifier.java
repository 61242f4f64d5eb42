package compactnets;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * A network of the format c in an app: the library that classifier.c and the artifact's model.c make, and the weights
 * of its model.bin, such as from the app's assets.
 *
 * <p>Nothing here is Android's, so the same file runs, and is tested, on any machine with Java. One object serves many
 * threads.
 */
public final class Classifier {
    private static final int ALIGNMENT = 64; // of the weights, in bytes

    static {
        System.loadLibrary("classifier");
    }

    private final int channels;
    private final int height;
    private final int width;
    private final ByteBuffer weights;

    /**
     * Reads the weights; the caller closes the stream.
     *
     * @throws IOException if it cannot be read, or is not the model.bin that the library was made with
     */
    public Classifier(InputStream file) throws IOException {
        int[] sizes = sizes();
        channels = sizes[0];
        height = sizes[1];
        width = sizes[2];
        int bytes = sizes[4];
        weights = ByteBuffer.allocateDirect(bytes + ALIGNMENT).order(ByteOrder.nativeOrder());
        byte[] part = new byte[1 << 16];
        int start = offset(weights);
        weights.position(start);
        for (int read; (read = file.read(part)) != -1; ) {
            if (read > start + bytes - weights.position()) {
                throw new IOException("the weights are longer than the " + bytes + " bytes of this network's model.bin");
            }
            weights.put(part, 0, read);
        }
        if (weights.position() != start + bytes) {
            throw new IOException(
                    "expected the " + bytes + " bytes of this network's model.bin, found " + (weights.position() - start));
        }
    }

    /** Returns the width of the images in pixels. */
    public int width() {
        return width;
    }

    /** Returns their height. */
    public int height() {
        return height;
    }

    /**
     * Returns the probability of each class, in the order of class_labels in the artifact's artifact.json.
     *
     * @param colors width() x height() pixels, row by row, as 0xAARRGGBB: what Bitmap.getPixels gives of a bitmap of
     *     this size
     */
    public float[] classify(int[] colors) {
        if (colors.length != width * height) {
            throw new IllegalArgumentException("expected " + width + " x " + height + " pixels, found " + colors.length);
        }
        ByteBuffer pixels = ByteBuffer.allocateDirect(colors.length * channels);
        for (int color : colors) {
            int red = color >> 16 & 255;
            int green = color >> 8 & 255;
            int blue = color & 255;
            if (channels == 3) {
                pixels.put((byte) red).put((byte) green).put((byte) blue);
            } else { // as Pillow makes an image grey
                pixels.put((byte) ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16));
            }
        }
        return softmax(run(weights, pixels));
    }

    private static float[] softmax(float[] logits) {
        float largest = Float.NEGATIVE_INFINITY;
        for (float logit : logits) {
            largest = Math.max(largest, logit);
        }
        double total = 0;
        double[] powers = new double[logits.length];
        for (int i = 0; i < logits.length; i++) {
            powers[i] = Math.exp(logits[i] - largest);
            total += powers[i];
        }
        float[] shares = new float[logits.length];
        for (int i = 0; i < logits.length; i++) {
            shares[i] = (float) (powers[i] / total);
        }
        return shares;
    }

    private static native int[] sizes();

    /** Returns where in a direct buffer the first address is that the network can have its weights at. */
    private static native int offset(ByteBuffer buffer);

    private static native float[] run(ByteBuffer weights, ByteBuffer pixels);
}
