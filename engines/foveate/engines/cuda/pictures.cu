// Pictures on the device into one row of a batch: cut, resized, padded, as uint8 RGB, one thread a pixel of the row.
//
// Coordinates and filters are those of the decoder on the CPU: bilinear with half-pixel centres and clamped edges,
// or, where both sides shrink to half or less, the mean over the exact area that a pixel covers.

struct Placement {
    const unsigned char *picture;  // RGB, or the luma of NV12
    const unsigned char *chroma;   // NV12: U and V in turn, for two by two pixels
    unsigned char *row;            // row_height x row_width x 3, without gaps
    int picture_pitch, chroma_pitch;
    int source_x, source_y, source_width, source_height;
    int target_x, target_y, target_width, target_height;
    int row_width, row_height;
    int pad_value;
    int by_area;
    int black;                                         // NV12: the luma of black
    float luma_gain, red_v, green_u, green_v, blue_u;  // NV12
};

struct Colour {
    float r, g, b;
};

__device__ inline float limited(float value) { return fminf(fmaxf(value, 0.0f), 255.0f); }

struct Rgb {
    static __device__ inline Colour at(const Placement &p, int x, int y) {
        const unsigned char *pixel = p.picture + (size_t)(p.source_y + y) * p.picture_pitch + 3 * (p.source_x + x);
        return {(float)pixel[0], (float)pixel[1], (float)pixel[2]};
    }
};

struct Nv12 {
    static __device__ inline Colour at(const Placement &p, int x, int y) {
        const int column = p.source_x + x, line = p.source_y + y;
        const unsigned char *pair = p.chroma + (size_t)(line >> 1) * p.chroma_pitch + 2 * (column >> 1);
        const float sample = (float)p.picture[(size_t)line * p.picture_pitch + column];
        const float luma = p.luma_gain * fmaxf(sample - (float)p.black, 0.0f);
        const float u = (float)pair[0] - 128.0f, v = (float)pair[1] - 128.0f;
        const float red = luma + p.red_v * v, green = luma + p.green_u * u + p.green_v * v, blue = luma + p.blue_u * u;
        return {limited(red), limited(green), limited(blue)};
    }
};

__device__ inline void add(Colour &sum, const Colour &colour, float weight) {
    sum.r += weight * colour.r;
    sum.g += weight * colour.g;
    sum.b += weight * colour.b;
}

// The source's coordinate of a target's pixel centre, on the source's own pixel centres.
__device__ inline float centre(int target, float step, int length) {
    return fminf(fmaxf(((float)target + 0.5f) * step - 0.5f, 0.0f), (float)(length - 1));
}

template <typename Picture>
__device__ inline Colour bilinear(const Placement &p, int x, int y) {
    const float at_x = centre(x, (float)p.source_width / (float)p.target_width, p.source_width);
    const float at_y = centre(y, (float)p.source_height / (float)p.target_height, p.source_height);
    const int left = (int)at_x, top = (int)at_y;
    const int right = min(left + 1, p.source_width - 1), bottom = min(top + 1, p.source_height - 1);
    const float to_right = at_x - (float)left, to_bottom = at_y - (float)top;
    Colour sum = {0.0f, 0.0f, 0.0f};
    add(sum, Picture::at(p, left, top), (1.0f - to_right) * (1.0f - to_bottom));
    add(sum, Picture::at(p, right, top), to_right * (1.0f - to_bottom));
    add(sum, Picture::at(p, left, bottom), (1.0f - to_right) * to_bottom);
    add(sum, Picture::at(p, right, bottom), to_right * to_bottom);
    return sum;
}

// How much of source pixel `index` lies between two coordinates.
__device__ inline float covered(float from, float to, int index) {
    return fminf(to, (float)(index + 1)) - fmaxf(from, (float)index);
}

template <typename Picture>
__device__ inline Colour area_mean(const Placement &p, int x, int y) {
    const float step_x = (float)p.source_width / (float)p.target_width;
    const float step_y = (float)p.source_height / (float)p.target_height;
    const float left = (float)x * step_x, right = fminf(left + step_x, (float)p.source_width);
    const float top = (float)y * step_y, bottom = fminf(top + step_y, (float)p.source_height);
    Colour sum = {0.0f, 0.0f, 0.0f};
    float weights = 0.0f;
    for (int line = (int)top; line < p.source_height && (float)line < bottom; ++line) {
        for (int column = (int)left; column < p.source_width && (float)column < right; ++column) {
            const float weight = covered(top, bottom, line) * covered(left, right, column);
            add(sum, Picture::at(p, column, line), weight);
            weights += weight;
        }
    }
    return {sum.r / weights, sum.g / weights, sum.b / weights};
}

template <typename Picture>
__device__ inline void place(const Placement &p) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= p.row_width || y >= p.row_height) return;
    const int column = x - p.target_x, line = y - p.target_y;
    const float pad = (float)p.pad_value;
    Colour colour = {pad, pad, pad};
    if (column >= 0 && column < p.target_width && line >= 0 && line < p.target_height)
        colour = p.by_area ? area_mean<Picture>(p, column, line) : bilinear<Picture>(p, column, line);
    unsigned char *pixel = p.row + 3 * ((size_t)y * p.row_width + x);
    pixel[0] = (unsigned char)(limited(colour.r) + 0.5f);
    pixel[1] = (unsigned char)(limited(colour.g) + 0.5f);
    pixel[2] = (unsigned char)(limited(colour.b) + 0.5f);
}

extern "C" __global__ void place_rgb(const Placement p) { place<Rgb>(p); }
extern "C" __global__ void place_nv12(const Placement p) { place<Nv12>(p); }
