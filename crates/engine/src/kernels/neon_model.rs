//! The NEON intrinsics that the kernels use, in plain Rust: tests run the NEON bodies against these on every other
//! processor. Names, types and meaning are Arm's (Neon Intrinsics Reference, IHI 0073).

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

pub type float32x4_t = [f32; 4];
pub type int32x4_t = [i32; 4];
pub type uint32x4_t = [u32; 4];
pub type int16x8_t = [i16; 8];
pub type int8x8_t = [i8; 8];
pub type int8x16_t = [i8; 16];
pub type uint8x16_t = [u8; 16];

pub unsafe fn vld1q_f32(from: *const f32) -> float32x4_t {
    // SAFETY: four values are the caller's promise.
    unsafe { from.cast::<float32x4_t>().read_unaligned() }
}

pub unsafe fn vst1q_f32(to: *mut f32, value: float32x4_t) {
    // SAFETY: as above.
    unsafe { to.cast::<float32x4_t>().write_unaligned(value) }
}

pub unsafe fn vld1q_s8(from: *const i8) -> int8x16_t {
    // SAFETY: sixteen values are the caller's promise.
    unsafe { from.cast::<int8x16_t>().read_unaligned() }
}

pub fn vdupq_n_f32(value: f32) -> float32x4_t {
    [value; 4]
}

pub fn vdupq_n_s32(value: i32) -> int32x4_t {
    [value; 4]
}

pub fn vdupq_n_u32(value: u32) -> uint32x4_t {
    [value; 4]
}

pub fn vdupq_n_u8(value: u8) -> uint8x16_t {
    [value; 16]
}

pub fn vfmaq_f32(sum: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    std::array::from_fn(|i| a[i].mul_add(b[i], sum[i]))
}

pub fn vmulq_n_f32(a: float32x4_t, b: f32) -> float32x4_t {
    a.map(|a| a * b)
}

pub fn vcvtq_f32_s32(a: int32x4_t) -> float32x4_t {
    a.map(|a| a as f32)
}

pub fn vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    std::array::from_fn(|i| a[i].wrapping_add(b[i]))
}

pub fn veorq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
    std::array::from_fn(|i| a[i] ^ b[i])
}

pub fn vreinterpretq_u8_u32(a: uint32x4_t) -> uint8x16_t {
    std::array::from_fn(|i| a[i / 4].to_le_bytes()[i % 4])
}

pub fn vreinterpretq_s8_u8(a: uint8x16_t) -> int8x16_t {
    a.map(|a| a as i8)
}

pub fn vget_low_s8(a: int8x16_t) -> int8x8_t {
    std::array::from_fn(|i| a[i])
}

pub fn vmull_s8(a: int8x8_t, b: int8x8_t) -> int16x8_t {
    std::array::from_fn(|i| i16::from(a[i]) * i16::from(b[i]))
}

pub fn vmull_high_s8(a: int8x16_t, b: int8x16_t) -> int16x8_t {
    std::array::from_fn(|i| i16::from(a[i + 8]) * i16::from(b[i + 8]))
}

pub fn vpaddlq_s16(a: int16x8_t) -> int32x4_t {
    std::array::from_fn(|i| i32::from(a[2 * i]) + i32::from(a[2 * i + 1]))
}

pub fn vpaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    [a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]]
}
