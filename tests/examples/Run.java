import compactnets.Classifier;
import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;

/** Run.java WEIGHTS COLORS: prints the probabilities of an image, whose pixels are 0xAARRGGBB, most significant first. */
class Run {
    public static void main(String[] arguments) throws Exception {
        Classifier classifier;
        try (InputStream file = new FileInputStream(arguments[0])) {
            classifier = new Classifier(file);
        }
        byte[] bytes = Files.readAllBytes(Path.of(arguments[1]));
        int[] colors = new int[bytes.length / 4];
        java.nio.ByteBuffer.wrap(bytes).asIntBuffer().get(colors);
        for (float share : classifier.classify(colors)) {
            System.out.println(share);
        }
        System.out.println(classifier.width() + " " + classifier.height());
    }
}
