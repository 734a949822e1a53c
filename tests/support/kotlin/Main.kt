// Runs Segmenter.kt: Main IN OUT. Numbers are big-endian: IN has the width, height, pads (0 or 1) and
// ARGB pixels of photos; OUT gets, of each, what tests/export/mobile_test.py reads.
import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.DataInputStream
import java.io.DataOutputStream
import java.io.File

fun main(args: Array<String>) {
    val input = DataInputStream(File(args[0]).inputStream().buffered())
    DataOutputStream(File(args[1]).outputStream().buffered()).use { out ->
        while (input.available() > 0) {
            val (width, height, pads) = List(3) { input.readInt() }
            val argb = IntArray(width * height) { input.readInt() }
            val side = 16
            val squashed = squash(width, height, side, pads == 1) { y ->
                argb.copyOfRange(y * width, (y + 1) * width)
            }
            squashed.forEach(out::writeFloat)
            val photo = Bitmap(width, height, argb)
            for (isInt8 in listOf(false, true)) {
                Segmenter(AssetManager(), pads = pads == 1, isInt8 = isInt8).use { segmenter ->
                    require(segmenter.side == side)
                    val mask = segmenter.mask(photo)
                    mask.forEach(out::writeFloat)
                    if (!isInt8) {
                        val rowOf = enlarge(mask, side, width, height, pads == 1)
                        for (y in 0 until height) rowOf(y).forEach(out::writeFloat)
                        val cutOut = IntArray(width * height)
                        segmenter.cutOut(photo).getPixels(cutOut, 0, width, 0, 0, width, height)
                        cutOut.forEach(out::writeInt)
                    }
                }
            }
        }
    }
}
