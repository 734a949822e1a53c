// What Segmenter.kt uses of Android's Bitmap and AssetManager, with the same signatures.
package android.graphics

class Bitmap(val width: Int, val height: Int, private val argb: IntArray) {
    enum class Config { ARGB_8888 }

    fun copy(config: Config, isMutable: Boolean): Bitmap {
        require(config == Config.ARGB_8888 && isMutable)
        return Bitmap(width, height, argb.clone())
    }

    fun setHasAlpha(hasAlpha: Boolean) = require(hasAlpha)

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) {
            argb.copyInto(pixels, offset + row * stride, (y + row) * this.width + x, (y + row) * this.width + x + width)
        }
    }

    fun setPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {
        for (row in 0 until height) {
            pixels.copyInto(argb, (y + row) * this.width + x, offset + row * stride, offset + row * stride + width)
        }
    }
}
