// Cuts objects out of photos on iOS and macOS, with LiteRT 2.3's CompiledModel: in Xcode, add the
// package https://github.com/google-ai-edge/LiteRT, branch release/2.3.0, product LiteRT.

import CoreGraphics
import LiteRT

enum SegmenterError: Error {
  case unreadablePhoto
  case unknownModel
}

/// Runs a file of `layerseg export --format=tflite`. Use it on one thread at a time.
final class Segmenter {
  private let model: CompiledModel
  private let inputs: [TensorBuffer]
  private let outputs: [TensorBuffer]
  private let masks: Int  // its place among the outputs
  private let pads: Bool
  private let isInt8: Bool

  /// S, the side of the model's input.
  let side: Int

  /// - Parameters:
  ///   - path: The file, in the app's bundle.
  ///   - pads: Whether the segmenter was trained with `data.aspect=pad` or `centre_crop`.
  init(path: String, pads: Bool = false) throws {
    let options = try Options()
    try options.setHardwareAccelerators([.cpu])
    let environment = try Environment()
    let model = try CompiledModel(filePath: path, environment: environment, options: options)
    self.model = model
    inputs = try model.createInputBuffers()  // images: float32 [1, S, S, 3]
    outputs = try model.createOutputBuffers()  // masks: float32 [1, S, S, 1]
    let type = try model.getInputTensorType(inputIndex: 0)
    side = type.layout.dimensions[1]
    isInt8 = type.elementType == .uint8
    self.pads = pads
    let found = try outputs.indices.first { try model.outputName(outputIndex: $0) == "masks" }
    guard let place = found else { throw SegmenterError.unknownModel }
    masks = place
  }

  /// Returns the probabilities of the object in an upright photo, side × side, row by row.
  func mask(photo: CGImage) throws -> [Float] {
    let rgba = try pixels(of: photo, overWhite: true)
    let rgb = squash(rgba, width: photo.width, height: photo.height, side: side, pads: pads)
    if isInt8 {  // scale 1, zero point 0
      try inputs[0].write(rgb.map { UInt8($0.rounded()) })
    } else {
      try inputs[0].write(rgb)
    }
    try model.run(inputs: inputs, outputs: outputs)
    if isInt8 {  // scale 1/256, zero point 0
      let bytes: [UInt8] = try outputs[masks].read()
      return bytes.map { Float($0) / 256 }
    }
    return try outputs[masks].read()
  }

  /// Returns the photo, transparent where its object is not.
  func cutOut(photo: CGImage) throws -> CGImage {
    let (width, height) = (photo.width, photo.height)
    let probabilities = enlarge(
      try mask(photo: photo), side: side, width: width, height: height, pads: pads)
    var rgba = try pixels(of: photo, overWhite: false)
    for place in 0..<(width * height) where probabilities[place] < 0.5 {
      for channel in 0..<4 { rgba[4 * place + channel] = 0 }
    }
    let result: CGImage? = rgba.withUnsafeMutableBytes { bytes in
      makeContext(bytes.baseAddress, width, height)?.makeImage()
    }
    guard let result else { throw SegmenterError.unreadablePhoto }
    return result
  }
}

/// Returns a photo as RGBA, premultiplied, row by row from the top.
func pixels(of photo: CGImage, overWhite: Bool) throws -> [UInt8] {
  let (width, height) = (photo.width, photo.height)
  var rgba = [UInt8](repeating: overWhite ? 255 : 0, count: 4 * width * height)
  let isDrawn = rgba.withUnsafeMutableBytes { bytes -> Bool in
    guard let context = makeContext(bytes.baseAddress, width, height) else { return false }
    context.draw(photo, in: CGRect(x: 0, y: 0, width: width, height: height))
    return true
  }
  guard isDrawn else { throw SegmenterError.unreadablePhoto }
  return rgba
}

private func makeContext(
  _ data: UnsafeMutableRawPointer?, _ width: Int, _ height: Int
) -> CGContext? {
  CGContext(
    data: data, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
    space: CGColorSpace(name: CGColorSpace.sRGB)!,
    bitmapInfo: CGImageAlphaInfo.premultipliedLast.rawValue)
}

/// The weights of a resize along one axis; those of cell i are at starts[i]..<starts[i + 1].
private struct Weights {
  var starts: [Int] = [0]
  var pixels: [Int] = []
  var values: [Double] = []
}

/// Antialiased bilinear weights: they fall off linearly from a cell's centre and add up to 1.
private func triangles(from: Int, to: Int) -> Weights {
  let scale = Double(from) / Double(to)
  let reach = max(scale, 1)
  var weights = Weights()
  for cell in 0..<to {
    let centre = (Double(cell) + 0.5) * scale
    let first = max(0, Int((centre - reach).rounded(.down)))
    let last = min(from - 1, Int((centre + reach).rounded(.up)))
    var total = 0.0
    for pixel in first...last {
      let weight = 1 - abs(Double(pixel) + 0.5 - centre) / reach
      if weight > 0 {
        weights.pixels.append(pixel)
        weights.values.append(weight)
        total += weight
      }
    }
    for place in weights.starts[cell]..<weights.pixels.count { weights.values[place] /= total }
    weights.starts.append(weights.pixels.count)
  }
  return weights
}

/// Pixels before an axis of `length` where it is continued at both ends to `square` pixels.
private func before(_ length: Int, _ square: Int) -> Int { (square - length) / 2 }

private func shrinking(_ length: Int, _ square: Int, _ side: Int) -> Weights {
  var weights = triangles(from: square, to: side)
  let gap = before(length, square)
  weights.pixels = weights.pixels.map { min(length - 1, max(0, $0 - gap)) }
  return weights
}

private func enlarging(_ side: Int, _ square: Int, _ length: Int) -> Weights {
  var weights = triangles(from: side, to: square)
  let gap = before(length, square)
  weights.starts = Array(weights.starts[gap...(gap + length)])
  return weights
}

/// Makes a photo square with the resize of training and of the SavedModel.
///
/// - Returns: RGB from 0 to 255, side × side × 3.
func squash(_ rgba: [UInt8], width: Int, height: Int, side: Int, pads: Bool = false) -> [Float] {
  let longest = max(width, height)
  let across = shrinking(width, pads ? longest : width, side)
  let down = shrinking(height, pads ? longest : height, side)
  var lines = [Double](repeating: 0, count: height * 3 * side)
  for y in 0..<height {
    for cell in 0..<side {
      for place in across.starts[cell]..<across.starts[cell + 1] {
        let source = 4 * (y * width + across.pixels[place])
        let target = 3 * (y * side + cell)
        for channel in 0..<3 {
          lines[target + channel] += across.values[place] * Double(rgba[source + channel])
        }
      }
    }
  }
  var sums = [Double](repeating: 0, count: side * 3 * side)
  for cell in 0..<side {
    for place in down.starts[cell]..<down.starts[cell + 1] {
      for k in 0..<(3 * side) {
        sums[3 * side * cell + k] += down.values[place] * lines[3 * side * down.pixels[place] + k]
      }
    }
  }
  return sums.map { Float($0) }
}

/// Enlarges a mask, side × side, to a photo's size, row by row.
func enlarge(
  _ mask: [Float], side: Int, width: Int, height: Int, pads: Bool = false
) -> [Float] {
  let longest = max(width, height)
  let across = enlarging(side, pads ? longest : width, width)
  let down = enlarging(side, pads ? longest : height, height)
  var out = [Float](repeating: 0, count: width * height)
  var line = [Double](repeating: 0, count: side)
  for y in 0..<height {
    for x in 0..<side {
      line[x] = (down.starts[y]..<down.starts[y + 1]).reduce(0) { sum, place in
        sum + down.values[place] * Double(mask[side * down.pixels[place] + x])
      }
    }
    for x in 0..<width {
      let sum = (across.starts[x]..<across.starts[x + 1]).reduce(0) { sum, place in
        sum + across.values[place] * line[across.pixels[place]]
      }
      out[y * width + x] = Float(sum)
    }
  }
  return out
}
