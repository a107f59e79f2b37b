// Reads zips as Java programs do: streaming through the local headers, and by the catalogue.
//
// Takes paths on standard input, one a line. Answers for each: lines of "stream|file NAME SHA256"
// (the name's UTF-8 in hex, "-" for a directory's hash), then "." or "! what went wrong".

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipInputStream;

public class ReadZip {
    public static void main(String[] arguments) throws Exception {
        BufferedReader paths = new BufferedReader(new InputStreamReader(System.in));
        for (String path = paths.readLine(); path != null; path = paths.readLine()) {
            try {
                readStream(path);
                readFile(path);
                System.out.println(".");
            } catch (Exception error) {
                System.out.println("! " + error.toString().replace('\n', ' '));
            }
        }
    }

    static void readStream(String path) throws Exception {
        try (ZipInputStream zip = new ZipInputStream(new FileInputStream(path))) {
            for (ZipEntry entry = zip.getNextEntry(); entry != null; entry = zip.getNextEntry()) {
                tell("stream", entry, zip);
            }
        }
    }

    static void readFile(String path) throws Exception {
        try (ZipFile zip = new ZipFile(path)) {
            for (var entries = zip.entries(); entries.hasMoreElements(); ) {
                ZipEntry entry = entries.nextElement();
                try (InputStream content = zip.getInputStream(entry)) {
                    tell("file", entry, content);
                }
            }
        }
    }

    static void tell(String how, ZipEntry entry, InputStream content) throws Exception {
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        byte[] buffer = new byte[1 << 16];
        for (int size = content.read(buffer); size >= 0; size = content.read(buffer)) {
            digest.update(buffer, 0, size);
        }
        HexFormat hex = HexFormat.of();
        String name = hex.formatHex(entry.getName().getBytes(StandardCharsets.UTF_8));
        String hash = entry.isDirectory() ? "-" : hex.formatHex(digest.digest());
        System.out.println(how + " " + name + " " + hash);
    }
}
