// What Segmenter.kt uses of Android and of LiteRT 2.3, with the same signatures. The model returns
// the mean of the three channels as the probability.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { CPU }

data class TensorType(val layout: Layout?) {
    data class Layout(val dimensions: List<Int>)
}

class Model private constructor() : AutoCloseable {
    fun getInputTensorType(inputName: String, signature: String? = null): TensorType {
        require(inputName == "images" && signature == "serving_default")
        return TensorType(TensorType.Layout(listOf(1, 16, 16, 3)))
    }

    override fun close() {}

    companion object {
        fun load(assetManager: AssetManager, assetName: String): Model {
            require(assetName == "segmenter.tflite")
            return Model()
        }
    }
}

class TensorBuffer : AutoCloseable {
    private var floats = FloatArray(0)
    private var bytes = ByteArray(0)

    fun writeFloat(data: FloatArray) {
        floats = data
    }

    fun writeInt8(data: ByteArray) {
        bytes = data
    }

    fun readFloat(): FloatArray = floats

    fun readInt8(): ByteArray = bytes

    override fun close() {}
}

class CompiledModel private constructor() : AutoCloseable {
    class Options(vararg val accelerators: Accelerator)

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer {
        require(inputName == "images" && signature == "serving_default")
        return TensorBuffer()
    }

    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer {
        require(outputName == "masks" && signature == "serving_default")
        return TensorBuffer()
    }

    fun run(
        inputs: Map<String, TensorBuffer>,
        outputs: Map<String, TensorBuffer>,
        signature: String? = null,
    ) {
        require(signature == "serving_default")
        val (images, masks) = inputs.getValue("images") to outputs.getValue("masks")
        val floats = images.readFloat()
        masks.writeFloat(FloatArray(floats.size / 3) { floats.mean(it) / 255 })
        val levels = images.readInt8().let { FloatArray(it.size) { i -> (it[i].toInt() and 255).toFloat() } }
        masks.writeInt8(ByteArray(levels.size / 3) { levels.mean(it).toInt().toByte() })
    }

    override fun close() {}

    companion object {
        fun create(model: Model, options: Options): CompiledModel {
            require(options.accelerators.toList() == listOf(Accelerator.CPU))
            return CompiledModel().also { model.hashCode() }
        }
    }
}

private fun FloatArray.mean(pixel: Int) = (0..2).sumOf { this[3 * pixel + it].toDouble() }.toFloat() / 3
