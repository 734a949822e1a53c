// Cuts objects out of photos on Android, with LiteRT 2.3's CompiledModel:
//   implementation("com.google.ai.edge.litert:litert:2.3.0")

import android.content.res.AssetManager
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Model
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

private const val SIGNATURE = "serving_default"

/**
 * Runs a file of `layerseg export --format=tflite`. Use it on one thread at a time. Photos are upright
 * bitmaps of any configuration but `HARDWARE`.
 *
 * @param assets the app's assets, which contain the file
 * @param name the file's name there
 * @param pads whether the segmenter was trained with `data.aspect=pad` or `centre_crop`
 * @param isInt8 whether the file was written with `--quantize=int8`
 */
class Segmenter(
    assets: AssetManager,
    name: String = "segmenter.tflite",
    private val pads: Boolean = false,
    private val isInt8: Boolean = false,
) : AutoCloseable {
    private val file = Model.load(assets, name)
    private val model = CompiledModel.create(file, CompiledModel.Options(Accelerator.CPU))
    private val images = model.createInputBuffer("images", SIGNATURE) // images: float32 [1, S, S, 3]
    private val masks = model.createOutputBuffer("masks", SIGNATURE) // masks: float32 [1, S, S, 1]

    /** S, the side of the model's input. */
    val side: Int = file.getInputTensorType("images", SIGNATURE).layout!!.dimensions[1]

    /** Returns the probabilities of the object, side × side, row by row. */
    fun mask(photo: Bitmap): FloatArray {
        val row = IntArray(photo.width)
        val rgb = squash(photo.width, photo.height, side, pads) { y ->
            photo.getPixels(row, 0, photo.width, 0, y, photo.width, 1)
            row
        }
        if (isInt8) images.writeInt8(toBytes(rgb)) else images.writeFloat(rgb)
        model.run(mapOf("images" to images), mapOf("masks" to masks), SIGNATURE)
        return if (isInt8) fromBytes(masks.readInt8()) else masks.readFloat()
    }

    /** Returns the photo, transparent where its object is not. */
    fun cutOut(photo: Bitmap): Bitmap {
        val rowOf = enlarge(mask(photo), side, photo.width, photo.height, pads)
        val result = photo.copy(Bitmap.Config.ARGB_8888, true)
        result.setHasAlpha(true)
        val row = IntArray(photo.width)
        for (y in 0 until photo.height) {
            result.getPixels(row, 0, photo.width, 0, y, photo.width, 1)
            val probabilities = rowOf(y)
            for (x in row.indices) if (probabilities[x] < 0.5f) row[x] = 0
            result.setPixels(row, 0, photo.width, 0, y, photo.width, 1)
        }
        return result
    }

    override fun close() {
        images.close()
        masks.close()
        model.close()
        file.close()
    }
}

/** An int8 file's input: scale 1, zero point 0. `writeInt8` copies unsigned bytes unchanged. */
fun toBytes(rgb: FloatArray) = ByteArray(rgb.size) { rgb[it].roundToInt().toByte() }

/** An int8 file's output: scale 1/256, zero point 0. */
fun fromBytes(masks: ByteArray) = FloatArray(masks.size) { (masks[it].toInt() and 255) / 256f }

/** The weights of a resize along one axis; those of cell i are at starts[i] until starts[i + 1]. */
private class Weights(val starts: IntArray, val pixels: IntArray, val values: DoubleArray)

/** Antialiased bilinear weights: they fall off linearly from a cell's centre and add up to 1. */
private fun triangles(from: Int, to: Int): Weights {
    val scale = from.toDouble() / to
    val reach = max(scale, 1.0)
    val starts = IntArray(to + 1)
    val pixels = ArrayList<Int>()
    val values = ArrayList<Double>()
    for (cell in 0 until to) {
        val centre = (cell + 0.5) * scale
        val first = max(0, floor(centre - reach).toInt())
        val last = min(from - 1, ceil(centre + reach).toInt())
        val weights = (first..last).map { it to 1 - abs(it + 0.5 - centre) / reach }
        val inside = weights.filter { it.second > 0 }
        val total = inside.sumOf { it.second }
        pixels += inside.map { it.first }
        values += inside.map { it.second / total }
        starts[cell + 1] = pixels.size
    }
    return Weights(starts, pixels.toIntArray(), values.toDoubleArray())
}

/** Pixels before an axis of `length` where it is continued at both ends to `square` pixels. */
private fun before(length: Int, square: Int) = (square - length) / 2

private fun shrinking(length: Int, square: Int, side: Int): Weights {
    val weights = triangles(square, side)
    val gap = before(length, square)
    val pixels = IntArray(weights.pixels.size) { (weights.pixels[it] - gap).coerceIn(0, length - 1) }
    return Weights(weights.starts, pixels, weights.values)
}

private fun enlarging(side: Int, square: Int, length: Int): Weights {
    val weights = triangles(side, square)
    val gap = before(length, square)
    return Weights(weights.starts.copyOfRange(gap, gap + length + 1), weights.pixels, weights.values)
}

/**
 * Makes a photo square with the resize of training and of the SavedModel.
 *
 * @param readRow returns row y of the photo as ARGB
 * @return RGB from 0 to 255, side × side × 3
 */
fun squash(
    width: Int,
    height: Int,
    side: Int,
    pads: Boolean = false,
    readRow: (Int) -> IntArray,
): FloatArray {
    val longest = max(width, height)
    val across = shrinking(width, if (pads) longest else width, side)
    val down = shrinking(height, if (pads) longest else height, side)
    val cells = List(height) { ArrayList<Int>() } // by row of the photo: places in `down`
    val owner = IntArray(down.pixels.size)
    for (cell in 0 until side) for (i in down.starts[cell] until down.starts[cell + 1]) {
        cells[down.pixels[i]].add(i)
        owner[i] = cell
    }
    val line = DoubleArray(3 * side)
    val sums = DoubleArray(3 * side * side)
    for (y in 0 until height) {
        val row = readRow(y)
        line.fill(0.0)
        for (cell in 0 until side) for (i in across.starts[cell] until across.starts[cell + 1]) {
            val pixel = row[across.pixels[i]]
            val weight = across.values[i]
            line[3 * cell] += weight * (pixel shr 16 and 255)
            line[3 * cell + 1] += weight * (pixel shr 8 and 255)
            line[3 * cell + 2] += weight * (pixel and 255)
        }
        for (i in cells[y]) {
            val start = owner[i] * line.size
            for (k in line.indices) sums[start + k] += down.values[i] * line[k]
        }
    }
    return FloatArray(sums.size) { sums[it].toFloat() }
}

/** Enlarges a mask, side × side, to a photo's size; returns a function of the photo's row. */
fun enlarge(
    mask: FloatArray,
    side: Int,
    width: Int,
    height: Int,
    pads: Boolean = false,
): (Int) -> FloatArray {
    val longest = max(width, height)
    val across = enlarging(side, if (pads) longest else width, width)
    val down = enlarging(side, if (pads) longest else height, height)
    val line = DoubleArray(side)
    return { y ->
        line.fill(0.0)
        for (i in down.starts[y] until down.starts[y + 1]) {
            val start = side * down.pixels[i]
            for (x in 0 until side) line[x] += down.values[i] * mask[start + x]
        }
        FloatArray(width) { x ->
            var sum = 0.0
            for (i in across.starts[x] until across.starts[x + 1]) {
                sum += across.values[i] * line[across.pixels[i]]
            }
            sum.toFloat()
        }
    }
}
