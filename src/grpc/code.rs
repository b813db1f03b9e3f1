use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub(super) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A status code of gRPC.
///
/// ```
/// use buttress::grpc::Code;
///
/// assert_eq!(Code::from(14), Code::Unavailable);
/// assert_eq!(Code::Unavailable as u8, 14);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of gRPC")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    pub(super) const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The code in the header or trailer `grpc-status`, if it is there.
    pub(super) fn in_headers(headers: &HeaderMap) -> Option<Self> {
        headers.get(&GRPC_STATUS).map(Self::of_header)
    }

    fn of_header(value: &HeaderValue) -> Self {
        match value.as_bytes() {
            [digit @ b'0'..=b'9'] => Self::from(digit - b'0'),
            [b'1', digit @ b'0'..=b'6'] => Self::from(10 + digit - b'0'),
            _ => Self::Unknown,
        }
    }

    /// The code of a response without `grpc-status`, as gRPC's `http-grpc-status-mapping.md` maps it.
    pub(super) const fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502 | 503 | 504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }
}

/// A number that is no code is [`Unknown`](Code::Unknown), as gRPC asks for.
impl From<u8> for Code {
    fn from(number: u8) -> Self {
        let code = Self::ALL.get(usize::from(number));
        code.copied().unwrap_or(Self::Unknown)
    }
}
